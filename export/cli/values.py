"""Text of the command line -> values within their limits; each says what it expected when it refuses."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from typing import Any

from export.stages.calibrate import METHODS


def positive_int(text: str) -> int:
    return int(_number(text, int, "a whole number above 0", lambda value: value > 0))


def not_negative_int(text: str) -> int:
    return int(_number(text, int, "a whole number of 0 or more", lambda value: value >= 0))


def positive(text: str) -> float:
    return _number(text, float, "a number above 0", lambda value: 0 < value < math.inf)


def not_negative(text: str) -> float:
    return _number(text, float, "a number of 0 or more", lambda value: 0 <= value < math.inf)


def positive_share(text: str) -> float:
    return _number(text, float, "above 0 and at most 1", lambda value: 0 < value <= 1)


def share_below_one(text: str) -> float:
    return _number(text, float, "at least 0 and below 1", lambda value: 0 <= value < 1)


def widths(text: str) -> tuple[int, ...]:
    """`400,400` -> (400, 400)."""
    return tuple(positive_int(part) for part in text.split(","))


def shares(text: str) -> tuple[float, ...]:
    """`0.7,0.1,0.1,0.1` -> four shares of the log."""
    found = tuple(positive_share(part) for part in text.split(","))
    if len(found) != 4 or abs(sum(found) - 1) > 1e-6:
        raise argparse.ArgumentTypeError(f"must be four shares that add up to 1 (got {text!r})")
    return found


def assignment(text: str) -> tuple[str, Any]:
    """`rank=4`, `crosses=[["site","ad"]]` -> a name and a JSON value; what is no JSON is a text."""
    name, equals, value = text.partition("=")
    if not (name.strip() and equals):
        raise argparse.ArgumentTypeError(f"must be NAME=VALUE (got {text!r})")
    try:
        return name.strip(), json.loads(value)
    except json.JSONDecodeError:
        return name.strip(), value


def names(text: str) -> tuple[str, ...]:
    """`lr,fwfm` -> ("lr", "fwfm")."""
    found = tuple(name.strip() for name in text.split(","))
    if not all(found):
        raise argparse.ArgumentTypeError(f"must be names with commas between (got {text!r})")
    return found


def methods(text: str) -> tuple[str, ...]:
    """`platt,isotonic` -> the calibration methods to choose from."""
    found = tuple(text.split(","))
    if unknown := [name for name in found if name not in METHODS]:
        raise argparse.ArgumentTypeError(f"must be among {', '.join(METHODS)} (got {unknown[0]!r})")
    return found


def _number(text: str, kind: Callable[[str], float], expected: str, holds: Callable[[float], bool]) -> float:
    try:
        value = kind(text)
    except ValueError:
        value = math.nan
    if not holds(value):
        raise argparse.ArgumentTypeError(f"must be {expected} (got {text!r})")
    return value
