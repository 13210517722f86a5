"""A sample of a log -> a guess of its schema: outcomes, fields with kind and role, and what is left out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from export.data.progress import Bar
from export.data.time_guess import finer_than_ms
from export.infer import names
from export.infer.column import Column
from export.infer.evidence import Labels, auc_alone, leaks
from export.infer.kinds import LeftOut, Shape, odd_among_numbers, shape_of, unfit_type
from export.infer.outcomes import (
    GuessedLabel,
    GuessedTime,
    guess_label,
    guess_time,
    guess_true_pctr,
    times_of,
)
from export.infer.roles import Roles
from export.infer.sample import Sample
from service.bundle.example_columns import CLICKED, RESERVED
from service.bundle.schema import Kind, Role

_ENOUGH_ROWS = 100  # to call a column constant, or a row's own
_OWN_TIMES = 0.5  # distinct texts a row, from which on a time is no part of the day
_UNIQUE_SHARE = 0.99  # of the values occur once
# Of a sequence's elements are values of another field, whose values it holds so many of.
_SHARED_SHARE, _COVERED_SHARE = 0.8, 0.2
_COUNTER_SHARE = 0.99  # of a user's rows follow each other by one


@dataclass(frozen=True)
class GuessedField:
    """One field: `column` is what it is read from, None where `derive` says so; `notes` are the evidence."""

    name: str
    column: str | None
    kind: Kind
    role: Role
    notes: tuple[str, ...]
    separator: str | None = None
    max_length: int | None = None
    same_values_as: str | None = None
    derive: str | None = None


@dataclass(frozen=True, eq=False)
class Guess:
    """All that a schema file says, and why."""

    label: GuessedLabel
    time: GuessedTime | None
    true_pctr: str | None
    fields: tuple[GuessedField, ...]
    left_out: tuple[LeftOut, ...]
    missing: Mapping[str, tuple[str, ...]]  # word -> the fields in which it stands for a missing value
    user: str | None
    request: str | None


def guess(sample: Sample, said_label: str | None, file: str) -> Guess:
    """The guess for a sample. Raises LogError without a label."""
    columns = {name: Column.of(sample.cells[name]) for name in sample.cells.columns}
    label = guess_label(columns, said_label, has_names=sample.has_header, file=file)
    others = {name: one for name, one in columns.items() if name != label.label.column}
    formats = times_of(others)
    time = guess_time(others, formats)
    true_pctr = guess_true_pctr(others)
    outcomes = {label.label.column, true_pctr, None if time is None else time.timestamp.column}
    rest = {name: one for name, one in columns.items() if name not in outcomes}
    roles = Roles.of(sample.cells, list(rest), None if time is None else time.timestamp.column)
    fields, left_out = _derived(time, columns), []
    with Bar("judged", len(rest), unit="columns") as bar:
        for column in rest.values():
            found = _of_service(column, label) or _left_out(column, roles, formats, label.clicks)
            if found is None:
                fields.append(_field(column, shape_of(column), roles))
            else:
                left_out.append(found)
            bar.add(1)
    return Guess(
        label=label,
        time=time,
        true_pctr=true_pctr,
        fields=_named_apart(_with_shared(fields, columns)),
        left_out=tuple(left_out),
        missing=_missing(fields, columns),
        user=roles.user,
        request=roles.request_id,
    )


def _of_service(column: Column, label: GuessedLabel) -> LeftOut | None:
    """Why a column of a service's examples is no field, if it stands there beside the fields."""
    if label.label.column != CLICKED or column.name not in RESERVED:
        return None
    return LeftOut(
        column.name, "a service's join writes it beside the fields, and no field may have its name"
    )


def _left_out(column: Column, roles: Roles, formats: Mapping[str, str], clicks: Labels) -> LeftOut | None:
    """Why a column is no field: it says nothing, belongs to one row, or tells what no request knows."""
    name = column.name
    if not name:
        return LeftOut(name, "it has no name")
    if not len(column.values):
        return LeftOut(name, "it has no value in these rows")
    if name not in formats and (unfit := unfit_type(column)) is not None:
        return unfit
    if column.distinct == 1 and not column.missing and column.rows >= _ENOUGH_ROWS:
        return LeftOut(name, f"it is {_quoted(column.counts['value'][0])} in each of these rows")
    if name == roles.request_id:
        return LeftOut(name, "by its name it is a request's id, which tells nothing of other requests")
    if (reason := names.known_too_late(name)) is not None:
        return LeftOut(name, reason)
    if name in formats:
        return LeftOut(
            name,
            f"a time (format {formats[name]!r}) whose values do not come back; an age at the time of the "
            "impression would",
        )
    if (reason := _unread_time(column)) is not None:
        return LeftOut(name, reason)
    if _is_row_id(column):
        odd = odd_among_numbers(column)
        return LeftOut(
            name, odd or "its values differ from row to row: a row's id, which tells nothing of others"
        )
    cells = column.cells
    if column.numbers is not None:
        if roles.counts_rows(name, _COUNTER_SHARE):
            return LeftOut(name, f"it counts the rows of each {roles.user}")
        cells = cells.cast(pl.Float64, strict=False)
    found = auc_alone(cells, clicks)
    if found is not None and leaks(found):
        return LeftOut(
            name, f"it tells the label: alone it ranks rows with an AUC of {max(found, 1 - found):.3f}"
        )
    return None


def _unread_time(column: Column) -> str | None:
    """Why a time, by its name, of no known format is no field; None: the column may be one."""
    if not names.is_time(column.name):
        return None
    finer = None if column.numbers is None else finer_than_ms(column.numbers)
    if finer is not None:
        return f"a time in {finer}; turn it into milliseconds for [timestamp], and write format 'unix_ms'"
    own = column.distinct > _OWN_TIMES * len(column.values) and len(column.values) >= _ENOUGH_ROWS
    if column.numbers is None and column.values.dtype == pl.String and own:
        return (
            f"by its name a time, in no usual format ({_quoted(column.counts['value'][0])}); write its "
            "pattern into [timestamp] if it is that of the impression"
        )
    return None


def _is_row_id(column: Column) -> bool:
    if len(column.values) < _ENOUGH_ROWS or column.is_list or column.has_fractions:
        return False
    if column.numbers is not None and not (
        names.is_identifier(column.name) or np.all(np.diff(column.numbers.to_numpy()) > 0)
    ):
        return False
    return column.distinct >= _UNIQUE_SHARE * len(column.values)


def _derived(time: GuessedTime | None, columns: Mapping[str, Column]) -> list[GuessedField]:
    """Fields made of the time, where it tells them."""
    told = [] if time is None else [("hour_of_day", time.hours), ("day_of_week", time.days)]
    return [
        GuessedField(
            name=derive,
            column=None,
            kind=Kind.CATEGORICAL,
            role=Role.CONTEXT,
            notes=("made of the time, in UTC or as the log writes it; a client sends it as a plain field",),
            derive=derive,
        )
        for derive, is_told in told
        if is_told and derive not in columns
    ]


def _field(column: Column, shape: Shape, roles: Roles) -> GuessedField:
    role, why = roles.of_column(column.name)
    missing = f", {column.missing:.1%} missing" if column.missing else ""
    user = ("the user's id, as it seems",) if column.name == roles.user else ()
    return GuessedField(
        name=column.name,
        column=column.name,
        kind=shape.kind,
        role=role,
        notes=(f"{column.distinct:,} distinct{missing}; {shape.note}", *user, f"{role}: {why}"),
        separator=shape.separator,
        max_length=shape.max_length,
    )


def _with_shared(fields: list[GuessedField], columns: Mapping[str, Column]) -> list[GuessedField]:
    """The fields; a sequence whose elements are values of a categorical one shares its ids."""
    owners = {
        one.name: set(columns[one.column].counts["value"])
        for one in fields
        if one.kind is Kind.CATEGORICAL and one.column is not None and _is_telling(columns[one.column])
    }
    return [_shared(one, columns, owners) if one.kind is Kind.SEQUENCE else one for one in fields]


def _is_telling(column: Column) -> bool:
    """Whether equal values of this column and of another are no chance, as small numbers are."""
    return (
        column.numbers is None or names.is_identifier(column.name) or names.plain(column.name) in names.ITEMS
    )


def _shared(
    field: GuessedField, columns: Mapping[str, Column], owners: Mapping[str, set[str]]
) -> GuessedField:
    assert field.column is not None
    elements = columns[field.column].elements(field.separator or "|")[0]
    found = set(elements)
    shares = {
        name: float(elements.is_in(list(values)).mean() or 0)  # type: ignore[arg-type]
        for name, values in owners.items()
        if len(found & values) >= max(2, _COVERED_SHARE * len(values))
    }
    best = max(shares, key=lambda name: shares[name], default=None)
    if best is None or shares[best] < _SHARED_SHARE:
        return field
    note = f"{shares[best]:.0%} of its elements are values of {best}: the same ids"
    return replace(field, same_values_as=best, notes=(*field.notes, note))


def _named_apart(fields: list[GuessedField]) -> tuple[GuessedField, ...]:
    """The fields without the types that RecBole's headers add to names, where they stay apart."""
    short = {one.name: one.name.partition(":")[0] for one in fields if names.recbole_type(one.name)}
    taken = {one.name for one in fields}
    if len(set(short.values())) < len(short) or taken & set(short.values()):
        return tuple(fields)
    return tuple(
        replace(
            one,
            name=short.get(one.name, one.name),
            same_values_as=short.get(one.same_values_as or "", one.same_values_as),
        )
        for one in fields
    )


def _missing(fields: list[GuessedField], columns: Mapping[str, Column]) -> dict[str, tuple[str, ...]]:
    found: dict[str, list[str]] = {}
    for field in fields:
        for word in columns[field.column].words if field.column is not None else ():
            found.setdefault(word, []).append(field.name)
    return {word: tuple(found[word]) for word in sorted(found)}


def _quoted(text: str, limit: int = 40) -> str:
    return repr(text if len(text) <= limit else f"{text[:limit]}...")
