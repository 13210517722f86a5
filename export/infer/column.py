"""What the cells of one column show: missing words, numbers, distinct values, elements of lists.

It knows no other column, and not what the column is for.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Final

import polars as pl

from export.judge.fields import MISSING_WORDS

# Said for a missing number; in a column of text they may be words like others.
_MISSING_AMONG_NUMBERS: Final = ("-", "?", ".", "none", "unknown", "missing")
_NUMBER: Final = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"
_LEADING_ZERO: Final = r"^0\d"
_SEPARATORS: Final = ("|", ";", ",", "^", "\x02")
_LISTS_SHARE: Final = 0.1  # of the cells hold several elements, of a list that is written as text


@dataclass(frozen=True, eq=False)
class Column:
    """A column's cells [n] as they are read; of text an empty one is null."""

    name: str
    cells: pl.Series
    words: dict[str, int]  # which texts mean a missing value, and in how many rows

    @classmethod
    def of(cls, cells: pl.Series) -> Column:
        """The column, with the words for a missing value that it holds."""
        if isinstance(cells.dtype, pl.Categorical | pl.Enum):
            cells = cells.cast(pl.String)
        if cells.dtype.is_float() and (nans := int(cells.is_nan().sum())):
            return cls(cells.name, cells.fill_nan(None), {"NaN": nans})
        if cells.dtype != pl.String:
            return cls(cells.name, cells, {})
        cells = cells.set(cells == "", None)
        counts = dict(cells.drop_nulls().value_counts().iter_rows())
        words = {word: counts[word] for word in sorted(MISSING_WORDS & counts.keys())}
        others = [text for text in counts if text not in words]
        rest = [text for text in others if text.lower() not in _MISSING_AMONG_NUMBERS]
        if rest and len(rest) < len(others) and pl.Series(rest).str.contains(_NUMBER).all():
            words |= {text: counts[text] for text in others if text.lower() in _MISSING_AMONG_NUMBERS}
        return cls(cells.name, cells, words)

    @property
    def rows(self) -> int:
        return len(self.cells)

    @property
    def is_list(self) -> bool:
        return isinstance(self.cells.dtype, pl.List)

    @cached_property
    def values(self) -> pl.Series:
        """The cells [m] that are not missing."""
        present = self.cells.drop_nulls()
        is_text = present.dtype == pl.String
        return present.filter(~present.is_in(list(self.words))) if is_text and self.words else present

    @property
    def missing(self) -> float:
        """The share of rows without a value."""
        return 1 - len(self.values) / max(1, self.rows)

    @cached_property
    def texts(self) -> pl.Series:
        """The values as text [m], of a list its elements, joined; none of a type that no text can hold."""
        if not is_text_like(self.values.dtype):
            return pl.Series(self.name, [], dtype=pl.String)
        if self.is_list:
            return self.values.cast(pl.List(pl.String)).list.join("|", ignore_nulls=True)
        return self.values.cast(pl.String)

    @cached_property
    def counts(self) -> pl.DataFrame:
        """`value` and `count` of each distinct text, the most frequent first."""
        counted = self.texts.alias("value").value_counts()
        return counted.sort(["count", "value"], descending=[True, False])

    @property
    def distinct(self) -> int:
        return len(self.counts)

    @property
    def largest_share(self) -> float:
        """The share of the most frequent value among the values."""
        return int(self.counts["count"][0]) / len(self.values) if self.distinct else 0.0

    @cached_property
    def numbers(self) -> pl.Series | None:
        """The values as numbers [m]; None where one is none, or is written as a code (`007`)."""
        values = self.values
        if not len(values) or self.is_list or values.dtype == pl.Boolean:
            return None
        if values.dtype == pl.String:
            texts = self.counts["value"]
            if not texts.str.contains(_NUMBER).all() or texts.str.contains(_LEADING_ZERO).any():
                return None
        elif not values.dtype.is_numeric():
            return None
        numbers = values.cast(pl.Float64, strict=False)
        return numbers if numbers.is_finite().all() else None

    @property
    def has_fractions(self) -> bool:
        """Whether the values are numbers that are not all written as whole ones."""
        if self.numbers is None:
            return False
        if self.values.dtype == pl.String:
            return bool(self.counts["value"].str.contains(r"[.eE]").any())
        return not self.values.dtype.is_integer()

    @property
    def unreadable(self) -> pl.DataFrame:
        """Of a text column the `counts` of values that are no numbers."""
        if self.values.dtype != pl.String:
            return self.counts.clear()
        return self.counts.filter(~pl.col("value").str.contains(_NUMBER))

    @cached_property
    def separator(self) -> str | None:
        """What stands between the elements of a text cell; None: a cell is one value.

        Elements come back in other cells, more often than the cells themselves.
        """
        if self.values.dtype != pl.String or self.numbers is not None or not self.distinct:
            return None
        for one in _SEPARATORS:
            counts = self.counts.filter(pl.col("value").str.contains(one, literal=True))
            if int(counts["count"].sum()) < _LISTS_SHARE * len(self.values):
                continue
            elements = self.counts["value"].str.split(one).explode()
            if elements.n_unique() * 2 <= max(self.distinct, len(elements) // 4) and not _is_bracketed(
                counts
            ):
                return one
        return None

    @property
    def looks_like_literal(self) -> bool:
        """Whether cells are lists as a program prints them: `['a', 'b']`."""
        return bool(self.values.dtype == pl.String and self.distinct and _is_bracketed(self.counts))

    def elements(self, separator: str) -> tuple[pl.Series, pl.Series]:
        """The elements of all lists, as text, and how many each row has [m]."""
        lists = self.values.cast(pl.List(pl.String)) if self.is_list else self.values.str.split(separator)
        return lists.explode().drop_nulls(), lists.list.len()


def is_text_like(dtype: pl.DataType) -> bool:
    """Whether text can hold cells, or lists of them."""
    inner = dtype.inner if isinstance(dtype, pl.List) else dtype
    return not (inner.is_nested() or inner in (pl.Binary, pl.Object, pl.Duration))


def _is_bracketed(counts: pl.DataFrame) -> bool:
    return bool((counts["value"].str.starts_with("[") & counts["value"].str.ends_with("]")).all())
