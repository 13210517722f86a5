"""Writes the files in which a command hands over what it found; it knows no content."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from service.bundle.folders import replacing


def write_texts(folder: Path, texts: Mapping[str, str]) -> None:
    """Texts by the name of their file, each whole or as it was. Raises OSError."""
    for name, text in texts.items():
        with replacing(folder / name) as incoming:
            incoming.write_text(text, encoding="utf-8")
