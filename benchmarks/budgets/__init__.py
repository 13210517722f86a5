"""The best bundle of any model for each budget of microseconds and bytes, on one log."""
