"""Arms that answer nothing, and score a share of what others have answered, when nobody waits."""
