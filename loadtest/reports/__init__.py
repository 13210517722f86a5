"""The load tests one runs, each with its table and a line of JSON."""
