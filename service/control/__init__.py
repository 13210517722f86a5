"""Commands to a running service: what they say, how they come, what they change, and what is kept of them."""
