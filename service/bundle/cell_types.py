"""Which typed columns a field can be read from, whatever library reads them; it knows no file."""

from __future__ import annotations

from enum import StrEnum

from service.bundle.schema import Kind


class CellType(StrEnum):
    """The type of a column's cells, or of the elements of its lists, whatever library reads them."""

    TEXT = "text"
    INTEGER = "integer"
    NUMBER = "number"  # with a fraction
    EMPTY = "empty"
    OTHER = "other"


def expected_cells(kind: Kind, cells: CellType, *, in_lists: bool) -> str:
    """What a typed column must hold for a field of `kind`, in words for an error; empty if it does."""
    is_text = cells in (CellType.TEXT, CellType.EMPTY)
    if kind is Kind.SEQUENCE:
        fits = is_text or (in_lists and cells is CellType.INTEGER)
        return "" if fits else "lists of text or of integers, or text with separators"
    if kind is Kind.NUMERIC:
        return "" if not in_lists and cells is not CellType.OTHER else "numbers"
    return "" if not in_lists and (is_text or cells is CellType.INTEGER) else "text or integers"
