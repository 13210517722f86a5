"""Checks of hyperparameters; each raises ValueError with a message of the same form.

It knows no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral


def check_count(name: str, value: int, least: int, remedy: str) -> None:
    """Requires a whole number of at least `least`."""
    if not _is_whole(value):
        raise ValueError(f"'{name}' must be a whole number (got {value!r}); {remedy}")
    check_at_least(name, value, least, remedy)


def check_at_least(name: str, value: float, least: float, remedy: str) -> None:
    """Requires a number of at least `least`; NaN fails."""
    if not value >= least:
        raise ValueError(f"'{name}' must be at least {least} (got {value!r}); {remedy}")


def check_choice(name: str, value: object, choices: Sequence[str], remedy: str) -> None:
    """Requires one of two or more words."""
    if value not in choices:
        raise ValueError(
            f"'{name}' must be {', '.join(choices[:-1])} or {choices[-1]} (got {value!r}); {remedy}"
        )


def check_widths(name: str, widths: Sequence[int], remedy: str, *, least: int = 1, layers: int = 0) -> None:
    """Requires widths of at least `layers` layers, each a whole number of at least `least`."""
    is_list = isinstance(widths, Sequence) and len(widths) >= layers
    if not is_list or not all(_is_whole(width) and width >= least for width in widths):
        several = f", and {layers} or more" if layers else ""
        raise ValueError(
            f"'{name}' must be one number a layer, each at least {least}{several} (got {widths!r}); {remedy}"
        )


def _is_whole(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)  # including NumPy's
