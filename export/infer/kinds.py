"""What kind of field a column can be: a category, a number or a sequence, with the evidence in words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import polars as pl

from export.data.disagreement import DECIMAL_COMMA
from export.data.fit import are_counts
from export.infer import names
from export.infer.column import Column
from service.bundle.schema import Kind

# Whole numbers that take no more values than these lose nothing as categories; of counts the fewer ones.
_FEW_VALUES: Final = 50
_VERY_FEW_VALUES: Final = 10
_MOSTLY_OWN: Final = 0.5  # distinct values a row, from which on a whole number is a measure
_MOSTLY_NUMBERS: Final = 0.9
_LONGEST: Final = 50  # elements that a row keeps


@dataclass(frozen=True)
class LeftOut:
    """A column that is no field, and why."""

    column: str
    reason: str


@dataclass(frozen=True)
class Shape:
    """The kind of a field and what its values look like; the others are a sequence's."""

    kind: Kind
    note: str
    separator: str | None = None
    max_length: int | None = None


def unfit_type(column: Column) -> LeftOut | None:
    """Why the export cannot read a column as a field, whatever its values are."""
    dtype = column.cells.dtype
    if names.recbole_type(column.name) == "float_seq" or (
        isinstance(dtype, pl.List) and not (dtype.inner == pl.String or dtype.inner.is_integer())
    ):
        return LeftOut(column.name, "a list of numbers; a sequence holds text or integers")
    if dtype == pl.Boolean:
        return LeftOut(column.name, "true and false, which no field holds; cast it to 0 and 1")
    if not (column.is_list or dtype == pl.String or dtype.is_numeric()):
        return LeftOut(column.name, f"cells of the type {dtype}, which no field holds; cast it")
    if dtype.is_float() and column.numbers is None:
        return LeftOut(column.name, "infinite numbers, which make a row malformed")
    if column.looks_like_literal:
        return LeftOut(column.name, "lists with brackets; write a|b|c, or lists of Parquet")
    return None


def shape_of(column: Column) -> Shape:
    """The kind of a column that has values, of a type that a field can have."""
    stated = names.recbole_type(column.name)
    if column.is_list:
        return _sequence(column, None)
    separator = " " if stated == "token_seq" else column.separator
    if separator is not None:
        return _sequence(column, separator)
    if column.numbers is None or stated == "token":
        return Shape(Kind.CATEGORICAL, _categories(column))
    return _of_numbers(column, column.numbers)


def _of_numbers(column: Column, numbers: pl.Series) -> Shape:
    if column.has_fractions:
        coded = (
            column.cells.dtype.is_float()
            and not names.is_measure(column.name)
            and bool((numbers.floor() == numbers).all())
        )
        remark = ", whole: cast them to integers if they are codes" if coded else ""
        return Shape(Kind.NUMERIC, f"{_range(numbers)}{remark}")
    why = _why_number(column, numbers)
    if why is not None:
        return Shape(Kind.NUMERIC, f"{_range(numbers)}; a number: {why}")
    return Shape(Kind.CATEGORICAL, f"whole numbers as codes, {_range(numbers)}")


def _why_number(column: Column, numbers: pl.Series) -> str | None:
    """Why whole numbers are a number, not codes; None: they are codes, for all that is seen."""
    if names.is_identifier(column.name) or column.distinct <= 2:
        return None
    if names.is_measure(column.name):
        return "by its name"
    values, counts = np.unique(numbers.to_numpy(), return_counts=True)
    if column.distinct > _VERY_FEW_VALUES and are_counts(values, counts):
        return "it looks like a count"
    if column.distinct <= _FEW_VALUES:
        return None
    if values[0] < -1:
        return "some are negative"
    if column.distinct > _MOSTLY_OWN * len(numbers):
        return "most rows have a value of their own"
    return None


def _sequence(column: Column, separator: str | None) -> Shape:
    elements, lengths = column.elements(separator or "|")
    longest = int(lengths.quantile(0.99, "higher") or 1)
    between = f", with {separator!r} between them" if separator is not None else ""
    note = (
        f"{int(lengths.min() or 0)} to {int(lengths.max() or 0)} elements"  # type: ignore[arg-type]
        f"{between}, {elements.n_unique():,} different ones"
    )
    return Shape(Kind.SEQUENCE, note, separator, max(1, min(longest, _LONGEST)))


def _categories(column: Column) -> str:
    value = str(column.counts["value"][0])
    shown = repr(value if len(value) <= 40 else f"{value[:40]}...")
    odd = odd_among_numbers(column)
    return f"the most frequent is {shown} ({column.largest_share:.1%}){'; ' if odd else ''}{odd}"


def odd_among_numbers(column: Column) -> str:
    """What keeps a column of text from being numeric, if it nearly is; else empty."""
    odd = column.unreadable
    rows = int(odd["count"].sum())
    if rows and odd["value"].str.contains(DECIMAL_COMMA).all():
        return "numeric once its numbers have a decimal point"
    if not names.is_identifier(column.name) and 0 < rows <= (1 - _MOSTLY_NUMBERS) * len(column.values):
        return f"numbers but for {rows:,} rows, such as {odd['value'][0]!r}: numeric once that is mended"
    return ""


def _range(numbers: pl.Series) -> str:
    """From where to where numbers go."""
    low, middle, high = (float(one) for one in (numbers.min(), numbers.median(), numbers.max()))  # type: ignore[arg-type]
    said = f"from {low:.10g} to {high:.10g}, median {middle:.10g}"
    # The one value below zero, as many logs write a missing number.
    if low == -1 and (rows := int((numbers == -1).sum())) == int((numbers < 0).sum()):
        said += f"; -1 in {rows / len(numbers):.1%}, which may mean that it is missing"
    return said
