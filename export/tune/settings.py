"""Writes settings as the TOML that `run`, `train` and `compare` take with --settings."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any


def as_toml(model: str, settings: Mapping[str, Any], comments: Sequence[str]) -> str:
    """A table of the model's name under comments; without settings it is empty, and all is as by default."""
    lines = [*(f"# {line}" for line in comments), f"[{model}]"]
    return "\n".join([*lines, *(f"{name} = {_value(value)}" for name, value in settings.items())]) + "\n"


def _value(value: Any) -> str:
    """Numbers, texts, booleans and lists of them are alike in JSON and TOML."""
    return json.dumps(list(value) if isinstance(value, tuple) else value)
