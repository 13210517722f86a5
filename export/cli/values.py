"""Text of the command line -> values within their limits; each says what it expected when it refuses."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import Any

from export.knobs import AT_LEAST_ONE, NOT_NEGATIVE, POSITIVE, SHARE_BELOW_ONE, Declared, Knob, Limits

Reader = Callable[[str], Any]


def reader(one: Declared) -> Reader:
    """What reads a value of this type within these limits; elements of a tuple stand between commas."""
    convert, limits = one.element if isinstance(one.element, type) else str, one.limits

    def element(text: str) -> Any:
        try:
            value = convert(text)
        except ValueError:
            value = None
        if value is None or (one.is_tuple and value == "") or not (limits is None or limits.hold(value)):
            raise argparse.ArgumentTypeError(f"must be {one.expected} (got {text!r})")
        return value

    def elements(text: str) -> tuple[Any, ...]:
        found = tuple(element(part.strip()) for part in text.split(","))
        if one.knob.rule is not None and not one.knob.rule.hold(found):
            raise argparse.ArgumentTypeError(f"must be {one.knob.rule.expected} (got {text!r})")
        return found

    return elements if one.is_tuple else element


def _number(kind: Any, limits: Limits) -> Reader:
    return reader(Declared("", kind, None, Knob(limits=limits)))


positive_int = _number(int, AT_LEAST_ONE)
not_negative_int = _number(int, NOT_NEGATIVE)
positive = _number(float, POSITIVE)
share_below_one = _number(float, SHARE_BELOW_ONE)
widths = _number(tuple[int, ...], AT_LEAST_ONE)
"""`400,400` -> (400, 400)."""


def assignment(text: str) -> tuple[str, Any]:
    """`rank=4`, `crosses=[["site","ad"]]` -> a name and a JSON value; what is no JSON is a text."""
    name, equals, value = text.partition("=")
    if not (name.strip() and equals):
        raise argparse.ArgumentTypeError(f"must be NAME=VALUE (got {text!r})")
    try:
        return name.strip(), json.loads(value)
    except json.JSONDecodeError:
        return name.strip(), value
