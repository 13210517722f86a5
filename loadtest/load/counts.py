"""Counts on a command line: whole numbers from 1, alone or several."""

from __future__ import annotations

import argparse


def at_least_one(text: str) -> int:
    """An argument's type. Raises ArgumentTypeError."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 (got {text!r})")
    return int(text)


def counts(text: str) -> tuple[int, ...]:
    """Several in one argument, with spaces or commas between. Raises ArgumentTypeError."""
    found = tuple(at_least_one(part) for part in text.replace(",", " ").split())
    if not found:
        raise argparse.ArgumentTypeError(f"must be whole numbers from 1 (got {text!r}); for example '1 100'")
    return found
