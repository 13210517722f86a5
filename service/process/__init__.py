"""How the service lives: one process, or workers under a supervisor."""
