"""A schema that grows out of yesterday's: which values stay, come and go, and where each id comes from."""

from __future__ import annotations

import dataclasses
import itertools
from bisect import bisect_right

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from export.data.counting import TextCounts
from export.data.errors import LogError
from export.data.fit import FieldCounts, fit_schema
from export.data.growth import Changes, Growth
from export.data.log_schema import LogSchema, parse_log_schema
from export.data.past import Past, check_same_fields, is_known, origins
from service.bundle.schema import FIRST_ID, OOV_ID, Bins, Field, Hashing, Kind, Role, Schema, Vocabulary

values = st.lists(st.sampled_from("abcdefghijkl"), max_size=12, unique=True).map(tuple)
edges = st.lists(st.integers(-20, 20).map(float), max_size=6, unique=True).map(lambda one: tuple(sorted(one)))

DESCRIPTION = """
name = "shop"
format = "csv"
[label]
column = "click"
[[field]]
name = "site"
kind = "categorical"
role = "context"
min_count = 2
[[field]]
name = "price"
kind = "numeric"
role = "candidate"
encoding = "quantile"
bins = 2
[[field]]
name = "user"
kind = "categorical"
role = "context"
encoding = "hashing"
buckets = 5
[[field]]
name = "seen"
kind = "sequence"
role = "context"
max_length = 3
same_values_as = "site"
"""


def described(**changed: str) -> LogSchema:
    text = DESCRIPTION
    for old, new in changed.items():
        text = text.replace(old, new)
    return parse_log_schema(text)


def schema_of(sites: tuple[str, ...], prices: tuple[float, ...] = (1.0, 2.0)) -> Schema:
    site = Field("site", Kind.CATEGORICAL, Role.CONTEXT, Vocabulary(sites))
    return Schema(
        (
            site,
            Field("price", Kind.NUMERIC, Role.CANDIDATE, Bins(prices)),
            Field("user", Kind.CATEGORICAL, Role.CONTEXT, Hashing(5)),
            dataclasses.replace(site, name="seen", kind=Kind.SEQUENCE, max_length=3, same_values_as="site"),
        )
    )


def past_of(schema: Schema, absent: dict[str, int] | None = None, counts: int = 7) -> Past:
    """A past in which all ids have the same counts; `absent` says how long single sites are away."""
    away = {field.name: np.zeros(field.cardinality, np.int64) for field in schema.fields}
    sites = schema.field("site").encoding
    assert isinstance(sites, Vocabulary)
    for value, runs in (absent or {}).items():
        away["site"][FIRST_ID + sites.values.index(value)] = runs
    met = {field.name: np.full(field.cardinality, counts, np.int64) for field in schema.fields}
    return Past(schema, 1000, met, away)


def counted(sites: list[str], prices: list[float]) -> FieldCounts:
    counts = FieldCounts(described())
    rows = len(sites)
    counts.add(
        pl.DataFrame(
            {
                "site": pl.Series(sites, dtype=pl.String),
                "price": pl.Series(prices, dtype=pl.Float64),
                "user": ["u"] * rows,
                "seen": pl.Series([["z"]] * rows, dtype=pl.List(pl.String)),
            }
        )
    )
    return counts


def sites_of(schema: Schema) -> tuple[str, ...]:
    encoding = schema.field("site").encoding
    assert isinstance(encoding, Vocabulary)
    return encoding.values


@given(values, values)
def test_a_value_goes_on_from_itself_and_a_new_one_from_out_of_vocabulary(
    before: tuple[str, ...], after: tuple[str, ...]
) -> None:
    old, new = schema_of(before), schema_of(after)
    found, known = origins(old, new)["site"], is_known(old, new)["site"]
    places = [FIRST_ID + before.index(value) if value in before else OOV_ID for value in after]
    expected = [0, OOV_ID, *places]
    assert found.tolist() == expected
    assert known.tolist() == [True, True, *(value in before for value in after)]
    assert origins(old, new)["seen"].tolist() == expected
    assert origins(old, new)["user"].tolist() == list(range(7))


@given(edges, edges)
def test_a_bin_goes_on_from_the_one_that_its_middle_lies_in(
    before: tuple[float, ...], after: tuple[float, ...]
) -> None:
    found = origins(schema_of((), before), schema_of((), after))["price"]
    ends = [after[0] - 1e-9, *after, after[-1]] if after else [0.0, 0.0]
    inside = [ends[0], *((a + b) / 2 for a, b in itertools.pairwise(after)), ends[-1]][: len(after) + 1]
    assert found.tolist() == [0, 1, *(FIRST_ID + bisect_right(before, number) for number in inside)]


@given(values, st.lists(st.sampled_from("abcdefghijkl"), max_size=30), st.integers(1, 4), st.data())
def test_values_stay_until_they_are_away_for_long_and_new_ones_need_rows(
    before: tuple[str, ...], today: list[str], forget_after: int, data: st.DataObject
) -> None:
    away = {value: data.draw(st.integers(0, forget_after - 1)) for value in before}
    growth = Growth(past_of(schema_of(before), away), forget_after)
    schema = fit_schema(described(), counted(today, [1.0] * len(today)), growth=growth)
    stays = [value for value in before if value in today or away[value] + 1 < forget_after]
    often = sorted({value for value in today if today.count(value) >= 2} - set(before))
    assert sites_of(schema)[: len(stays)] == tuple(stays)
    assert sorted(sites_of(schema)[len(stays) :]) == often
    assert sites_of(schema)[len(stays) :] == tuple(
        sorted(often, key=lambda value: (-today.count(value), value))
    )
    changes = Changes.of(growth.past.schema, schema)
    assert changes == Changes(len(stays), len(often), len(before) - len(stays))
    assert schema.field("seen").encoding == schema.field("site").encoding


def test_bins_stay_unless_they_are_to_be_fitted_again() -> None:
    past = past_of(schema_of(("a",)))
    rows = counted(["a"] * 40, [float(price) for price in range(10, 50)])
    assert fit_schema(described(), rows, growth=Growth(past)).field("price").encoding == Bins((1.0, 2.0))
    again = fit_schema(described(), rows, growth=Growth(past, bins="refit"))
    assert again.field("price").encoding == fit_schema(described(), rows).field("price").encoding
    assert again.field("price").encoding != Bins((1.0, 2.0))


def test_a_fixed_vocabulary_stays_as_it_is() -> None:
    growth = Growth(past_of(schema_of(("a", "b"))), forget_after=1, fixed=frozenset({"site"}))
    assert sites_of(fit_schema(described(), counted(["c"] * 9, [1.0] * 9), growth=growth)) == ("a", "b")


def test_what_was_counted_moves_with_its_value() -> None:
    past = past_of(schema_of(("a", "b", "c")), {"c": 2})
    past.counts["site"][:] = [10, 11, 12, 13, 14]
    moved = past.moved_to(schema_of(("c", "new", "a")))
    assert moved.counts["site"].tolist() == [10, 11, 14, 0, 12]
    assert moved.absent["site"].tolist() == [0, 0, 2, 0, 0]
    assert moved.counts["user"].tolist() == [7] * 7
    assert moved.rows == 1000
    again = Past.of(moved.schema, moved.arrays())
    assert all(np.array_equal(again.counts[name], moved.counts[name]) for name in moved.counts)
    assert all(np.array_equal(again.absent[name], moved.absent[name]) for name in moved.absent)


def test_arrays_of_another_schema_are_refused() -> None:
    arrays = past_of(schema_of(("a",))).arrays()
    with pytest.raises(ValueError, match=r"'0.counts' must be int64 numbers by id of the field 'site', 4 of"):
        Past.of(schema_of(("a", "b")), arrays)
    del arrays["rows"]
    with pytest.raises(ValueError, match="'rows' must be a number"):
        Past.of(schema_of(("a",)), arrays)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('name = "price"', 'name = "cost"', r"field 2 must be .* 'price' \(numeric, .* \(got 'cost'"),
        ("buckets = 5", "buckets = 6", r"hashing to 5 buckets by seed 0\) \(got .*hashing to 6 buckets"),
        ("max_length = 3", "max_length = 4", r"at most 3 long.* \(got .*at most 4 long"),
        ('role = "candidate"', 'role = "context"', r"\(numeric, candidate, bins\) \(got .*context"),
    ],
)
def test_other_fields_are_refused_with_both_told(old: str, new: str, said: str) -> None:
    check_same_fields(described().fields, schema_of(("a",)))
    with pytest.raises(LogError, match=said):
        check_same_fields(described(**{old: new}).fields, schema_of(("a",)))


def test_a_field_that_came_or_left_is_refused() -> None:
    fields = described().fields
    with pytest.raises(LogError, match=r"field 4 must be .* 'seen' .* \(got none\); train once without"):
        check_same_fields(fields[:3], schema_of(("a",)))
    fewer = Schema(schema_of(("a",)).fields[:3])
    with pytest.raises(LogError, match=r"field 4 must be .*, absent \(got 'seen'"):
        check_same_fields(fields, fewer)


@given(st.lists(st.sampled_from("abc") | st.none(), max_size=20))
def test_a_value_is_seen_if_any_row_has_it(rows: list[str | None]) -> None:
    counts = TextCounts()
    counts.add(pl.Series(rows, dtype=pl.String))
    assert counts.seen(("c", "x", "a")).tolist() == [value in rows for value in ("c", "x", "a")]
    assert counts.seen(()).tolist() == []
