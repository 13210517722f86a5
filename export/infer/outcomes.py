"""Which columns tell what happened: the label, the time of the impression, a true click probability."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, cast

import numpy as np
import polars as pl

from export.data.cells import label_texts
from export.data.errors import LogError, shortened
from export.data.log_schema import Label, Timestamp
from export.data.time_guess import guess_format
from export.data.times import seconds_of
from export.infer import names
from export.infer.column import Column
from export.infer.evidence import Labels

_YES: Final = ("1", "true", "t", "yes", "y", "click", "clicked", "1.0")
_NO: Final = ("0", "false", "f", "no", "n", "noclick", "no_click", "none", "-1", "0.0", "-1.0")
_LIKED: Final = 0.8  # of the highest rating: a click, as it is usual for MovieLens
_MOST_RATINGS: Final = 11
_SHOWN: Final = 30  # columns that a message names
_DAY: Final = 86_400

Columns = Mapping[str, Column]


@dataclass(frozen=True, eq=False)
class GuessedLabel:
    """The label, why it is that, and what it says of each row [n]."""

    label: Label
    note: str
    clicks: Labels


@dataclass(frozen=True, eq=False)
class GuessedTime:
    """The time of the impression, why it is that, and the seconds of it [n]."""

    timestamp: Timestamp
    note: str
    hours: bool  # whether it tells the hour of the day
    days: bool  # whether each weekday comes back: else it tells one day from another


def guess_label(columns: Columns, said: str | None, *, has_names: bool, file: str) -> GuessedLabel:
    """The column that tells clicks, by `said`, its name or its values. Raises LogError where none does."""
    if said is not None:
        if said not in columns:
            raise LogError(f"'label' must be a column of {file} (got {said!r}); it has {_listed(columns)}")
        found = (
            _label_of(columns[said], "as --label says") or _rated(columns[said]) or _present(columns[said])
        )
        if found is None:
            raise LogError(
                "'label' must be a column of yes and no (such as 1 and 0, true and false), of ratings, or of "
                f"times that clicks alone have (got {said!r} with {_listed_values(columns[said])}); name "
                "another with --label, and write its words into [label] of that draft"
            )
        return found
    by_plain = {names.plain(name): one for name, one in columns.items()}
    for name in names.LABELS:
        if name in by_plain and (found := _label_of(by_plain[name])) is not None:
            return found
    binary = [one for one in columns.values() if one.distinct == 2 and _label_of(one) is not None]
    if binary and (len(binary) == 1 or not has_names):
        only = "the only" if len(binary) == 1 else "the first"
        return cast(GuessedLabel, _label_of(binary[0], f"{only} column of yes and no"))
    for column in columns.values():
        if names.plain(column.name) in names.RATINGS and (found := _rated(column)) is not None:
            return found
    for column in columns.values():
        clicked = {"click", "clicked"} & set(names.words(column.name))
        if clicked and 0 < column.missing < 1 and (found := _present(column)) is not None:
            return found
    raise LogError(
        f"{file}: a column must tell clicks (found none among {_listed(columns)}); name it with --label"
    )


def _label_of(column: Column, why: str = "by its name and values") -> GuessedLabel | None:
    """A label of two values of which one means yes; of one value, if that is yes or no."""
    if not 1 <= column.distinct <= 2 or column.is_list:
        return None
    texts = label_texts(column.cells)
    found = texts.drop_nulls().unique().sort().to_list()
    clicks = [text for text in found if text.lower() in _YES]
    others = [text for text in found if text.lower() in _NO]
    if len(clicks) + len(others) < len(found) or len(clicks) > 1 or len(others) > 1:
        return None
    if not others and (nothing := _present(column)) is not None:
        return nothing  # yes, or an empty cell
    label = Label(column.name, tuple(clicks) or ("1",), tuple(others) or ("0",))
    return _guessed(label, texts, why)


def _rated(column: Column) -> GuessedLabel | None:
    """A label of a few numbers, of which the highest mean that it was liked."""
    if column.numbers is None or not 3 <= column.distinct <= _MOST_RATINGS:
        return None
    texts = label_texts(column.cells)
    ratings = sorted(texts.drop_nulls().unique().to_list(), key=float)
    least = _LIKED * float(ratings[-1])
    liked = tuple(one for one in ratings if float(one) >= least)
    others = tuple(one for one in ratings if float(one) < least)
    if not others:
        return None
    return _guessed(
        Label(column.name, liked, others), texts, f"a rating, which from {liked[0]} on counts as a click"
    )


def _present(column: Column) -> GuessedLabel | None:
    """A label that is any value: the time of a click, or nothing."""
    if column.words or not 0 < column.missing < 1:
        return None
    clicks = column.cells.is_not_null().to_numpy().astype(np.uint8)
    note = f"The label: any value is a click, and {clicks.mean():.2%} of the rows have one."
    return GuessedLabel(Label(column.name, present=True), note, clicks)


def _guessed(label: Label, texts: pl.Series, why: str) -> GuessedLabel:
    clicks = texts.is_in(label.click).fill_null(False).to_numpy().astype(np.uint8)
    missing = texts.null_count() / max(1, len(texts))
    without = (
        f"; {missing:.2%} of the rows have none and are malformed: --on-malformed skip leaves them out"
        if missing
        else ""
    )
    told = f"The label, {why}: {clicks.mean():.2%} of the rows are clicks{without}."
    return GuessedLabel(label, told, clicks)


def _listed(columns: Columns) -> str:
    """The names of the columns, as far as they fit into a message."""
    shown = list(columns)[:_SHOWN]
    more = len(columns) - len(shown)
    return ", ".join(map(shortened, shown)) + (f" and {more} others" if more else "")


def _listed_values(column: Column) -> str:
    shown = ", ".join(map(repr, column.counts["value"].head(5).to_list()))
    return f"{column.distinct:,} distinct values ({shown}{', ...' if column.distinct > 5 else ''})"


def times_of(columns: Columns) -> dict[str, str]:
    """The columns that hold times, with the format of each; numbers only where the name says so too."""
    found = {}
    for column in columns.values():
        dtype = column.values.dtype
        if isinstance(dtype, pl.Date | pl.Datetime) and len(column.values):
            found[column.name] = "unix"
        if not (dtype == pl.String or dtype.is_numeric()):
            continue
        if column.numbers is not None and not names.is_time(column.name):
            continue
        format_ = guess_format(column.values)
        if format_ is not None:
            found[column.name] = format_
    return found


def guess_time(columns: Columns, formats: Mapping[str, str]) -> GuessedTime | None:
    """Of the columns that hold times, that of the impression: whole, its own, ascending, fine."""
    whole = [
        columns[name]
        for name in formats
        if not columns[name].missing and not names.is_time_of_something_else(name)
    ]
    if not whole:
        return None
    best = max(whole, key=lambda one: (_is_sorted(one), one.distinct))
    seconds = seconds_of(best.cells, formats[best.name])
    low, high = int(seconds.min()), int(seconds.max())  # type: ignore[arg-type]
    first, last = (datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M") for at in (low, high))
    order = "ascending" if _is_sorted(best) else "in no order, which the split by time makes"
    hours = (seconds // 3600 % 24).n_unique() > 1
    note = f"The time of the impression, from {first} to {last}, {order}."
    return GuessedTime(Timestamp(best.name, formats[best.name]), note, hours, high - low >= 14 * _DAY)


def _is_sorted(column: Column) -> bool:
    return bool(column.cells.is_sorted())


def guess_true_pctr(columns: Columns) -> str | None:
    """The column with the true click probability of a synthetic log."""
    for column in columns.values():
        is_named = names.plain(column.name) in names.TRUE_PCTR
        if is_named and column.numbers is not None and not column.missing:
            return column.name if column.numbers.is_between(0, 1).all() else None
    return None
