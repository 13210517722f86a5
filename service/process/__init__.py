"""How the service runs: in one process, or in workers under a supervisor."""
