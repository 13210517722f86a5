"""The load tests as commands: each prints tables for people, then one line of JSON for machines."""
