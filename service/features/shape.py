"""What the columns of a file of users or ads hold, and its cells as raw values; it reads no file."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any, Final

from service.bundle.delimited import Dialect
from service.bundle.schema import Kind, Schema
from service.bundle.spelling import Spelling, TextFormat, number_of

DEFAULT_LIST_SEPARATOR: Final = " "
_DEFAULTS: Final[dict[TextFormat, Dialect]] = {"csv": Dialect(",", '"'), "tsv": Dialect("\t", '"')}


class CellProblem(ValueError):
    """A cell that its column cannot hold; the message says what the column must be."""


class ColumnProblem(ValueError):
    """Columns that do not tell which of them is a field; the message names them."""


@dataclass(frozen=True)
class Shape:
    """What columns are called and hold: numbers, lists, else text. `kept` are the ones to read; None is all.

    `kinds` are those of a bundle's fields, which are read as the `spelling` of its log says; columns that are
    no field are read as they stand. `fields` are those that a column fills; a column that is not there fills
    what has its name. `separator`, `delimiter` and `quote` win over the log's.
    """

    numbers: frozenset[str] = frozenset()
    lists: frozenset[str] = frozenset()
    separator: str | None = None
    kept: frozenset[str] | None = None
    kinds: Mapping[str, Kind] = field(default_factory=dict)
    fields: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    spelling: Spelling = field(default_factory=Spelling)
    delimiter: str | None = None
    quote: str | None = None

    def keeps(self, name: str) -> bool:
        """Whether the column is to be read."""
        return self.kept is None or name in self.kept

    def fields_of(self, column: str) -> tuple[str, ...]:
        """What the cells of the column are values of."""
        return self.fields.get(column, (column,))

    def check_columns(self, columns: Sequence[str]) -> None:
        """Raises ColumnProblem if no column is a field, two are the same, or one could be either of two."""
        if self.fields and not any(column in self.fields for column in columns):
            raise ColumnProblem(
                f"a column must be a field of the bundle (got {', '.join(columns)}); its fields are "
                f"{', '.join(self.kinds)}"
            )
        column_of: dict[str, str] = {}
        for column in columns:
            if not self.keeps(column):
                continue
            for name in self.fields_of(column):
                other = column_of.setdefault(name, column)
                if other != column:
                    raise ColumnProblem(
                        f"{name!r} must be in one column (got {other!r} and {column!r}, of which one has the "
                        "field's name and one its name in the log); leave one out"
                    )
            in_log = [name for name in self.fields_of(column) if name != column]
            if in_log and column in self.spelling.columns:
                raise ColumnProblem(
                    f"column {column!r} must be one field (got the name of one, and the name in the log of "
                    f"{in_log[0]!r}); load the file without the bundle, with the names of the fields"
                )

    def dialect(self, format: TextFormat) -> Dialect:  # noqa: A002
        """How cells are separated: as in the log, if that had the same format."""
        found = self.spelling.dialect_of(format, _DEFAULTS[format])
        quote = found.quote if self.quote is None else self.quote
        return Dialect(self.delimiter or found.separator, quote)

    def of_text(self, name: str, text: str) -> Any:
        """The raw value of a cell of text; None is missing. Raises CellProblem."""
        if not text or (name in self.kinds and text in self.spelling.missing):
            return None
        if name in self.lists:
            separator = self.separator
            if separator is None:
                separator = self.spelling.separators.get(name, DEFAULT_LIST_SEPARATOR)
            return [element for element in text.split(separator) if element] if separator else list(text)
        return self._number(name, text) if name in self.numbers else text

    def of_typed(self, name: str, value: Any) -> Any:
        """The raw value of a cell of a typed file. Raises CellProblem."""
        if isinstance(value, str):
            return self.of_text(name, value) if name in self.kinds else value
        if isinstance(value, Decimal):
            value = float(value)
        if isinstance(value, float) and math.isnan(value) and self._reads_nan_as_missing(name):
            return None
        return value

    def _number(self, name: str, text: str) -> float | None:
        number = number_of(text)
        if number is not None and math.isnan(number) and self._reads_nan_as_missing(name):
            return None
        if number is None or not math.isfinite(number):
            found = repr(text[:40])
            raise CellProblem(
                f"{name!r} must be a finite number (got {found}); leave the cell empty when it is missing"
            )
        return int(number) if number.is_integer() and abs(number) < 2**53 else number

    def _reads_nan_as_missing(self, name: str) -> bool:
        return self.spelling.nan_is_missing and self.kinds.get(name) is Kind.NUMERIC


def with_schema(named: Shape, schema: Schema, key: str) -> Shape:
    """`named`, which options give, with what a bundle's schema says of its fields; others are left out.

    A column has the field's name or that of its column in the log.
    """
    kinds = {each.name: each.kind for each in schema.fields}
    spelling = schema.spelling or Spelling()
    fields = {name: (name,) for name in kinds}
    for name, column in spelling.columns.items():
        fields[column] = (*fields.get(column, ()), name)
    return replace(
        named,
        numbers=_filled(named.numbers, fields) | {name for name in kinds if kinds[name] is Kind.NUMERIC},
        lists=_filled(named.lists, fields) | {name for name in kinds if kinds[name] is Kind.SEQUENCE},
        kept=frozenset(fields) | {key},
        kinds=kinds,
        fields=fields,
        spelling=spelling,
    )


def _filled(columns: frozenset[str], fields: Mapping[str, tuple[str, ...]]) -> frozenset[str]:
    """The fields of columns that options name."""
    return frozenset(name for column in columns for name in fields.get(column, (column,)))
