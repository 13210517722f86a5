"""An encoded log in memory, and a report for code that prints progress."""

from __future__ import annotations

from dataclasses import dataclass

from export.data.parts import Part
from export.data.past import Past
from models.fields import Field


@dataclass(frozen=True)
class MemoryLog:
    """The parts of an encoded log, and the fields of a model for it."""

    parts: dict[str, Part]
    fields: tuple[Field, ...] = ()
    past: Past | None = None


def quiet(_: str) -> None:
    """Ignores a line of progress."""
