"""The console: a page for operators, and the numbers that it shows."""
