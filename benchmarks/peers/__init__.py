"""Bidlight's models beside other libraries' on the same encoded rows."""
