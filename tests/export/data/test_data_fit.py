"""Vocabularies, bins and splits against naive formulas."""

import itertools
import math
from bisect import bisect_right

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from export.data.counting import NumberCounts, TextCounts
from export.data.errors import LogError
from export.data.fit import (
    MAX_BINS,
    FieldCounts,
    are_counts,
    criteo_edges,
    fit_schema,
    merge_rare,
    quantile_edges,
    squared_log_edge,
)
from export.data.log_schema import parse_log_schema
from export.data.splits import DEFAULT_SHARES, Split, check_shares, split_by_rows, split_by_time
from service.bundle.schema import Bins, Vocabulary

numbers = st.lists(st.integers(-50, 3000).map(float) | st.floats(-100, 1e6), min_size=1, max_size=200)


def tabled(values: list[float]) -> tuple[np.ndarray, np.ndarray]:
    return np.unique(np.array(values), return_counts=True)


def test_frequent_values_come_first_ties_by_value() -> None:
    counts = TextCounts()
    counts.add(pl.Series(["b", "a", None, "c", "b"]))
    counts.add(pl.Series(["a", "d"]))
    assert counts.at_least(1) == ("a", "b", "c", "d")
    assert counts.at_least(2) == ("a", "b")
    assert counts.at_least(3) == ()
    assert counts.forgotten == 0


def test_past_its_limit_counting_forgets_the_rarest() -> None:
    counts = TextCounts(limit=50)
    for start in range(0, 400_000, 40_000):
        counts.add(pl.Series(["often"] * 10 + [f"once {number}" for number in range(start, start + 40_000)]))
    assert counts.at_least(10) == ("often",)
    assert counts.forgotten > 0


@given(
    st.lists(
        numbers | st.lists(st.sampled_from([-0.0, 0.0, 0.5, 1.0, 2.0, 2.0**60, -1.7e308, 1.7e308])),
        max_size=5,
    )
)
def test_numbers_are_counted_across_chunks(chunks: list[list[float]]) -> None:
    counts = NumberCounts()
    for chunk in chunks:
        counts.add(pl.Series([*chunk, None], dtype=pl.Float64))
    values, found = counts.table()
    expected = tabled([value for chunk in chunks for value in chunk])
    assert values.tolist() == expected[0].tolist()
    assert found.tolist() == expected[1].tolist()


def test_past_its_limit_neighbours_share_an_entry() -> None:
    counts = NumberCounts(limit=100)
    counts.add(pl.Series(np.arange(1000.0)))
    values, found = counts.table()
    assert len(values) <= 100
    assert found.sum() == 1000
    assert values[0] == 0


@given(st.floats(2.0, 1e12, exclude_min=True))
def test_criteo_bins_are_the_published_formula(x: float) -> None:
    edges = [squared_log_edge(n) for n in range(1, math.floor(math.log(x) ** 2) + 3)]
    assert bisect_right(edges, x) == math.floor(math.log(x) ** 2)


@given(numbers)
def test_criteo_edges_part_what_the_formula_parts(values: list[float]) -> None:
    def naive(x: float) -> tuple[str, int]:
        return ("log", math.floor(math.log(x) ** 2)) if x > 2 else ("integer", math.floor(x))

    edges = criteo_edges(np.unique(values))
    assert all(left < right for left, right in itertools.pairwise(edges))
    pairs = {(bisect_right(edges, x), naive(x)) for x in values}
    assert len({own for own, _ in pairs}) == len({theirs for _, theirs in pairs}) == len(pairs)


@given(numbers, st.integers(1, 30))
def test_rare_bins_join_a_neighbour(values: list[float], min_count: int) -> None:
    table, counts = tabled(values)
    edges = criteo_edges(table)
    merged = merge_rare(edges, table, counts, min_count)
    assert set(merged) <= set(edges)
    rows = np.bincount([bisect_right(merged, x) for x in values], minlength=len(merged) + 1)
    assert len(merged) == 0 or rows.min() >= min_count


def test_bins_are_never_too_many() -> None:
    values = np.arange(-100_000.0, 0.0)
    merged = merge_rare(criteo_edges(values), values, np.ones(len(values), np.int64), 1)
    assert MAX_BINS / 2 < len(merged) < MAX_BINS


@given(numbers, st.integers(1, 40))
def test_quantile_bins_hold_about_the_same(values: list[float], bins: int) -> None:
    table, counts = tabled(values)
    edges = quantile_edges(table, counts, bins)
    assert len(edges) < bins or not edges
    assert list(edges) == sorted(set(edges))
    assert set(edges) <= set(table.tolist())
    rows = np.bincount([bisect_right(edges, x) for x in values], minlength=len(edges) + 1)
    assert rows.min() > 0
    # A bin's size is off by at most one value's rows at either end.
    assert rows.max() <= len(values) / bins + counts.max() + 1 or len(edges) == 0


def test_quantile_bins_of_distinct_values_are_even() -> None:
    values = np.arange(1000.0)
    assert quantile_edges(values, np.ones(1000, np.int64), 4) == (250.0, 500.0, 750.0)
    assert quantile_edges(np.empty(0), np.empty(0, np.int64), 4) == ()
    assert criteo_edges(np.empty(0)) == ()


def test_a_frequent_value_leaves_the_bins_to_the_others() -> None:
    for often in (0.0, 500.5, 2000.0):
        values, counts = tabled([often] * 19_000 + list(np.arange(1.0, 1001.0)))
        edges = quantile_edges(values, counts, 11)
        rows = np.histogram(values, [-np.inf, *edges, np.inf], weights=counts)[0]
        assert max(rows) >= 19_000
        assert len(rows) == 11
        assert max(sorted(rows)[:-1]) <= 120


def test_few_distinct_values_have_a_bin_each() -> None:
    values, counts = np.array([-1.0, 0.0, 0.5, 7.0]), np.array([900, 50, 40, 10])
    assert quantile_edges(values, counts, 32) == (0.0, 0.5, 7.0)
    assert quantile_edges(np.array([3.0]), np.array([10]), 32) == ()


RANDOM = np.random.default_rng(5)
COUNTED = {
    "events": RANDOM.geometric(0.01, 3000) // 1.0 * (RANDOM.random(3000) < 0.5),
    "followers": np.floor(RANDOM.lognormal(4, 2, 3000)),
}
NOT_COUNTED = {
    "shares": RANDOM.random(3000),
    "rounded shares": RANDOM.random(3000).round(2),
    "negative": RANDOM.normal(0, 5, 3000),
    "unix times": 1_700_000_000.0 + RANDOM.integers(0, 86_400, 3000),
    "years": RANDOM.integers(1920, 2020, 3000).astype(float),
    "heavy tails": RANDOM.standard_cauchy(3000),
    "prices": RANDOM.lognormal(3, 2, 3000),
    "hours": RANDOM.integers(0, 24, 3000).astype(float),
    "flags": RANDOM.integers(0, 2, 3000).astype(float),
    "tiny": RANDOM.random(3000) * 1e-9,
}


def fitted(values: np.ndarray, keys: str = "") -> tuple[float, ...]:
    """The edges of a numeric field whose training part holds these values."""
    log_schema = parse_log_schema(
        'name = "x"\nformat = "csv"\n[label]\ncolumn = "click"\n'
        f'[[field]]\nname = "n"\nkind = "numeric"\nrole = "context"\n{keys}'
    )
    counts = FieldCounts(log_schema)
    counts.add(pl.DataFrame({"n": values}))
    encoding = fit_schema(log_schema, counts).field("n").encoding
    assert isinstance(encoding, Bins)
    return encoding.edges


def test_numbers_near_the_largest_that_there_are_look_counted_or_not_without_a_warning() -> None:
    assert not are_counts(*tabled([0.0, 1.8e307, 1.8e307]))
    assert are_counts(*tabled([0.0, 1.0, 1.8e307]))


@pytest.mark.parametrize("name", NOT_COUNTED)
def test_a_number_without_an_encoding_is_parted_by_quantiles(name: str) -> None:
    values = NOT_COUNTED[name]
    edges = fitted(values)
    assert not are_counts(*tabled(list(values)))
    assert edges == fitted(values, 'encoding = "quantile"')
    rows = np.histogram(values, [-np.inf, *edges, np.inf])[0]
    assert len(rows) == min(32, len(np.unique(values)))
    assert rows.min() >= 8


@pytest.mark.parametrize("name", COUNTED)
def test_a_count_without_an_encoding_has_the_bins_of_criteo(name: str) -> None:
    edges = fitted(COUNTED[name])
    assert len(edges) > 5
    assert set(edges) <= set(fitted(COUNTED[name], 'encoding = "criteo"'))
    assert fitted(COUNTED[name], "min_count = 8") == fitted(COUNTED[name], 'encoding = "criteo"')


def test_a_huge_count_has_no_more_bins_than_its_rows_can_teach() -> None:
    """The Criteo transform has hundreds of bins up to 10^9; with few rows each LR learns their noise."""
    huge = np.floor(np.random.default_rng(3).lognormal(10, 4, 40_000))
    assert len(fitted(huge[:3000], 'encoding = "criteo"')) > 100
    for rows in (3000, 20_000, 40_000):
        edges = fitted(huge[:rows])
        assert 16 < len(edges) < 32 + rows // 1000
        held = np.histogram(huge[:rows], [-np.inf, *edges, np.inf])[0]
        assert held.min() >= min(1000, rows // 32)
    assert len(fitted(huge)) > len(fitted(huge[:20_000]))
    assert len(fitted(huge, "bins = 8")) < len(fitted(huge))


def test_a_number_that_says_nothing_has_one_bin() -> None:
    for values in (np.full(100, 3.5), np.full(100, 0.0), np.empty(0), np.array([*[1.0] * 99, 2.0])):
        assert fitted(values) == ()


def texts_fitted(rows_a_value: list[int], keys: str = "", min_count: int | None = None) -> int:
    """The size of the vocabulary of a field whose values have these training rows each."""
    log_schema = parse_log_schema(
        'name = "x"\nformat = "csv"\n[label]\ncolumn = "click"\n'
        f'[[field]]\nname = "id"\nkind = "categorical"\nrole = "context"\n{keys}'
    )
    counts = FieldCounts(log_schema)
    values = np.repeat([f"v{number}" for number in range(len(rows_a_value))], rows_a_value)
    counts.add(pl.DataFrame({"id": values}))
    encoding = fit_schema(log_schema, counts, min_count).field("id").encoding
    assert isinstance(encoding, Vocabulary)
    return encoding.size


def test_rare_values_of_a_small_log_keep_their_ids() -> None:
    few_rows_each = [1] * 50 + [2] * 100 + [5] * 400
    assert texts_fitted(few_rows_each) == 500
    assert texts_fitted([5] * 400) == 400
    assert texts_fitted([6] * 20 + [100] * 100) == 100  # 8 leaves few rows out
    assert texts_fitted([3] * 20 + [6] * 20 + [100] * 12) == 32  # 4 does: 5 % of the rows


def test_what_is_stated_decides() -> None:
    assert texts_fitted([2] * 100 + [5] * 400, "min_count = 8") == 0
    assert texts_fitted([2] * 100 + [5] * 400, "min_count = 5") == 400
    assert texts_fitted([2] * 100 + [5] * 400, "min_count = 5", min_count=1) == 500
    assert texts_fitted([2] * 100 + [5] * 400, min_count=8) == 0


def test_a_large_log_keeps_eight_rows_a_value() -> None:
    assert texts_fitted([7] * 100_000 + [300_000]) == 1
    assert texts_fitted([3] * 100_000 + [4] * 20_000 + [50_000]) == 20_001  # 430,000 rows: four


def test_bins_mean_quantiles() -> None:
    assert len(fitted(COUNTED["followers"], "bins = 4")) == 3


def test_splits_by_rows_follow_the_shares() -> None:
    split = split_by_rows(1000, (0.7, 0.1, 0.1, 0.1))
    assert split == Split("row order", (700, 800, 900))
    assert split.part_of(698, None, 4).tolist() == [0, 0, 1, 1]


@given(st.lists(st.integers(0, 60), min_size=20, max_size=300), st.randoms())
def test_splits_by_time_keep_moments_whole_and_in_order(seconds: list[int], random) -> None:
    distinct, counts = np.unique(np.array(seconds), return_counts=True)
    if len(distinct) < 4:
        with pytest.raises(LogError, match="'timestamp' must take at least 4 values"):
            split_by_time(distinct, counts, DEFAULT_SHARES)
        return
    split = split_by_time(distinct, counts, DEFAULT_SHARES)
    shuffled = list(seconds)
    random.shuffle(shuffled)
    part = split.part_of(0, np.array(shuffled), len(shuffled))
    assert set(part.tolist()) == {0, 1, 2, 3}
    for earlier, later in ((0, 1), (1, 2), (2, 3)):
        assert max(np.array(shuffled)[part == earlier]) < min(np.array(shuffled)[part == later])


def test_splits_by_time_are_near_the_shares() -> None:
    seconds = np.arange(10_000)
    split = split_by_time(seconds, np.ones(10_000, np.int64), (0.5, 0.2, 0.2, 0.1))
    part = split.part_of(0, seconds, len(seconds))
    assert np.bincount(part).tolist() == [5000, 2000, 2000, 1000]


@pytest.mark.parametrize(
    "shares", [(0.7, 0.1, 0.1), (0.7, 0.1, 0.1, 0.2), (1.0, 0.0, 0.0, 0.0), (0.9, 0.2, -0.2, 0.1)]
)
def test_shares_are_checked(shares: tuple[float, ...]) -> None:
    with pytest.raises(LogError, match="'split' must be four positive shares"):
        check_shares(shares)
