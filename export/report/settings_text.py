"""Says settings of a model and its training in a line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def said(settings: Mapping[str, Any]) -> str:
    """Settings in a line; those of the defaults are none."""
    return ", ".join(f"{name} {_value(value)}" for name, value in settings.items()) or "the defaults"


def _value(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return "-".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
