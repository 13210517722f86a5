"""A log in, a guess of its schema file out, to be edited by a person."""
