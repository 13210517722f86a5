"""Patterns of timestamps: which directives are allowed, and how polars spells them; it reads no log.

A pattern is written as for Python's strptime and parsed by polars, whose directives are chrono's. Both read
the allowed ones alike; the rest is refused, because a difference would move a row in time without an error.
"""

from __future__ import annotations

import re
from typing import Final

# What each allowed directive tells.
_PARTS: Final = {
    "%Y": "year",
    "%y": "year",
    "%m": "month",
    "%b": "month",
    "%B": "month",
    "%d": "day",
    "%j": "day of the year",
    "%a": "weekday",
    "%A": "weekday",
    "%H": "hour",
    "%I": "hour of twelve",
    "%p": "half of the day",
    "%M": "minute",
    "%S": "second",
    "%f": "fraction",
    "%z": "offset",
}
ALLOWED: Final = (*_PARTS, "%%")
# A part, and the parts of which it needs one.
_NEEDS: Final = {
    "month": ("day",),
    "day": ("month",),
    "hour of twelve": ("half of the day",),
    "half of the day": ("hour of twelve",),
    "minute": ("hour", "hour of twelve"),
    "second": ("minute",),
    "fraction": ("second",),
    "offset": ("hour", "hour of twelve"),
}
_EXCLUDES: Final = {"day of the year": ("month", "day"), "hour": ("hour of twelve",)}
_TOKEN: Final = re.compile(r"%.?|[^%]+", re.DOTALL)


def fault_of(pattern: str) -> str:
    """What `pattern` must be where it is not allowed, in words for an error; empty if it is."""
    directives = [token for token in _TOKEN.findall(pattern) if token[0] == "%" and token != "%%"]
    if not directives:
        return "'unix', 'unix_ms' or a strptime pattern such as '%y%m%d%H'"
    if "%Z" in directives:
        return "a pattern without %Z, since names of time zones are ambiguous (write %z, or UTC as it stands)"
    for directive in directives:
        if directive not in _PARTS:
            return f"a pattern of {', '.join(ALLOWED)} ({directive} is none of them)"
    parts = [_PARTS[directive] for directive in directives]
    for part in parts:
        if parts.count(part) > 1:
            return f"a pattern with one {part}"
        if part in _NEEDS and not any(need in parts for need in _NEEDS[part]):
            return f"a pattern with the {_NEEDS[part][0]} beside the {part}"
        if both := [other for other in _EXCLUDES.get(part, ()) if other in parts]:
            return f"a pattern with either the {part} or the {both[0]}"
    if "year" not in parts or not {"day", "day of the year"} & set(parts):
        return "a pattern with a whole date (%Y or %y, then %m and %d, or %j)"
    return ""


def has_short_year(pattern: str) -> bool:
    """Whether the year has two digits."""
    return "%y" in _TOKEN.findall(pattern)


def chrono_patterns(pattern: str) -> tuple[tuple[str, ...], str]:
    """A valid pattern as chrono's, of which the first that parses a text counts; and what to append to texts.

    A time of day that is left out is midnight, and minutes that are left out are zero, as in Python.
    """
    tokens = _TOKEN.findall(pattern)
    appended = ""
    if not {"%H", "%I"} & set(tokens):
        tokens, appended = [*tokens, " ", "%H", ":", "%M"], " 00:00"
    elif "%M" not in tokens:
        tokens, appended = [*tokens, " ", "%M"], " 00"
    patterns = [tokens]
    if "%f" in tokens:
        place = tokens.index("%f")
        if tokens[place - 1].endswith("."):
            # chrono's name for a decimal point and the digits after it.
            patterns = [[*tokens[: place - 1], tokens[place - 1][:-1], "%.f", *tokens[place + 1 :]]]
        else:
            # Without a point chrono needs the number of digits: milliseconds or microseconds.
            patterns = [[*tokens[:place], digits, *tokens[place + 1 :]] for digits in ("%3f", "%6f")]
    if "%z" in tokens:
        # Python's %z takes Z too, chrono's does not.
        patterns += [["Z" if token == "%z" else token for token in each] for each in patterns]
    return tuple("".join(each) for each in patterns), appended
