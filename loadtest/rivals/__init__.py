"""Bidlight beside other servers that do the same job: `make rivals`. The runner speaks HTTP only."""
