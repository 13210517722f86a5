"""Benchmarks of single parts, each a command of its own; they may import any room."""
