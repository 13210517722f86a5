"""Rows of text -> lines of equal columns. Standard library only, so that it runs in Locust's own image."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def aligned(rows: Sequence[Sequence[str]], left: Iterable[int] = ()) -> str:
    """Numbers on the right, and the columns `left` on the left. The first row is the head."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    on_left = set(left)
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column in on_left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def or_dash(figure: float | None, digits: int = 2) -> str:
    """A figure with `digits` decimals, or a dash where it is not known."""
    return "-" if figure is None else f"{figure:,.{digits}f}"
