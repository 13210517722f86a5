"""What a schema should say where it and the log disagree as a whole, in words; it reads no file."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Final

import polars as pl

from export.data.errors import shortened
from export.data.log_schema import LogField, LogSchema
from export.data.time_guess import finer_than_ms, guess_format
from export.data.times import years_of

_SHOWN: Final = 5  # values that a message names
DECIMAL_COMMA: Final = r"^[+-]?\d*,\d+$"


class Disagreement:
    """The errors of one schema; each gets cells that it cannot read, and where they stand."""

    def __init__(self, schema: LogSchema) -> None:
        self._schema = schema

    def label(self, cells: pl.Series, where: str) -> str:
        """Of words that mean neither a click nor none."""
        label = self._schema.label
        assert label is not None
        known = ", ".join((*label.no_click, *label.click))
        return (
            f"schema '{self._schema.name}', [label]: 'click' and 'no_click' must name the values of the "
            f"column '{label.column}' (got {_values(cells)} {where}, where the schema has {known}); write "
            "them into the two lists, or present = true if any value is a click"
        )

    def time(self, cells: pl.Series, where: str) -> str:
        """Of times in another format, which is named if it is a usual one."""
        timestamp = self._schema.timestamp
        assert timestamp is not None
        if not len(cells):
            return (
                f"schema '{self._schema.name}', [timestamp]: 'column' must be one with a time in each row "
                f"(got '{timestamp.column}' without a value {where}); name another, or leave the table out: "
                "the log is split by row order then"
            )
        guessed, finer = guess_format(cells), finer_than_ms(cells)
        remedy = f'write format = "{guessed}"' if guessed else "write the pattern of these times"
        if finer is not None:
            remedy = f'turn these {finer} into milliseconds and write format = "unix_ms"'
        return (
            f"schema '{self._schema.name}', [timestamp]: 'format' must be that of the column "
            f"'{timestamp.column}' (got {timestamp.format!r} for cells like {_values(cells)} {where}); "
            f"{remedy}, or name another column"
        )

    def odd_format(self, cells: pl.Series, seconds: pl.Series, better: str, where: str) -> str:
        """Of times that another format reads into likelier years."""
        timestamp = self._schema.timestamp
        assert timestamp is not None
        return (
            f"schema '{self._schema.name}', [timestamp]: 'format' must be that of the column "
            f"'{timestamp.column}' (got {timestamp.format!r}, by which cells like {_values(cells)} are of "
            f'{years_of(seconds)}, {where}); write format = "{better}", or name another column'
        )

    def odd_times(self, cells: pl.Series, seconds: pl.Series, where: str) -> str:
        """Of times of unlikely years that no usual format reads better."""
        timestamp = self._schema.timestamp
        assert timestamp is not None
        return (
            f"schema '{self._schema.name}', [timestamp]: cells of the column '{timestamp.column}' like "
            f"{_values(cells)} are of {years_of(seconds)} by the format {timestamp.format!r}, {where}; write "
            "another format or column if these are not the years, and derive no hour_of_day or day_of_week "
            "from times that count from another zero"
        )

    def number(self, field: LogField, cells: pl.Series, where: str) -> str:
        """Of text in a numeric field."""
        if cells.cast(pl.String).str.contains(DECIMAL_COMMA).all():
            remedy = 'write its numbers with a decimal point, or kind = "categorical"'
        else:
            remedy = "write kind = \"categorical\", or name the texts in 'missing' if they mean that"
        return (
            f"schema '{self._schema.name}', field '{field.name}': 'kind' must be one that the column "
            f"'{field.column}' can be (got numeric for cells like {_values(cells)} {where}); {remedy}"
        )


def users_of(schema: LogSchema, column: str) -> str:
    """The tables of the schema that name a column, in words: `[label]` or `field 'page'`."""
    users = []
    if schema.label is not None and schema.label.column == column:
        users.append("[label]")
    if schema.timestamp is not None and schema.timestamp.column == column:
        users.append("[timestamp]")
    if schema.true_pctr == column:
        users.append("'true_pctr'")
    users += [f"field '{field.name}'" for field in schema.fields if field.column == column]
    return " and ".join(users)


def similar(name: str, columns: Sequence[str]) -> str:
    """The column that is spelled most like a name, in any case; empty if none is."""
    folded = {column.casefold(): column for column in columns}
    found = get_close_matches(name.casefold(), folded, n=1, cutoff=0.8)
    return folded[found[0]] if found else ""


def _values(cells: pl.Series) -> str:
    """Some distinct values of cells."""
    if not len(cells):
        return "no value"
    distinct = cells.unique(maintain_order=True)
    shown = ", ".join(shortened(value, 40) for value in distinct.head(_SHOWN).to_list())
    return f"{shown}, ..." if len(distinct) > _SHOWN else shown
