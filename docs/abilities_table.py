"""Writes the table of docs/abilities.md: `python -m docs.abilities_table [NAME ...]`, all rows by default.

What a row says is found by pruning the model (`export.stages.abilities`); rows that are not named stay. A
test fails when the page lacks a model, or a row differs from what is found.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from export.cli.abilities import columns_of, row_of
from export.stages.abilities import abilities_of
from models import MODELS

PAGE = Path(__file__).with_name("abilities.md")
_MARKED = re.compile(r"<!-- abilities: [^\n]*-->\n\n(.*?)\n<!-- /abilities -->", re.DOTALL)


def lines_of(name: str) -> tuple[str, str]:
    """The head of the table, and the row of a model, in Markdown."""
    found = abilities_of(name, with_int8=False)
    model, *cells = row_of(found)
    return _line(columns_of(found)), _line([f"`{model}`", *cells])


def marked_span(text: str) -> tuple[int, int]:
    """Where the table lies on the page. Raises ValueError for a page without the marks."""
    found = _MARKED.search(text)
    if found is None:
        raise ValueError(f"'{PAGE.name}' must hold the marks of the table; put them back")
    return found.span(1)


def rows_on_page(text: str) -> dict[str, str]:
    """The rows of the page by model, and the head by no name."""
    start, end = marked_span(text)
    head, *lines = text[start:end].strip().splitlines() or [""]
    return {"": head, **{line.split("`")[1]: line for line in lines if line.startswith("| `")}}


def main(names: Sequence[str]) -> None:
    """Rewrites the rows of these models in place, or of all."""
    for name in names or MODELS:
        head, row = lines_of(name)
        text = PAGE.read_text(encoding="utf-8")
        rows = rows_on_page(text) | {"": head, name: row}
        rule = "|" + "---|" * (head.count("|") - 1)
        kept = [rows[each] for each in MODELS if each in rows]
        table = "\n".join([head, rule, *kept]) + "\n"
        start, end = marked_span(text)
        PAGE.write_text(text[:start] + table + text[end:], encoding="utf-8")


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', ' ') for cell in cells)} |"


if __name__ == "__main__":
    main(sys.argv[1:])
