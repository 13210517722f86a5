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
from export.data.fit import MAX_BINS, criteo_edges, merge_rare, quantile_edges, squared_log_edge
from export.data.splits import DEFAULT_SHARES, Split, check_shares, split_by_rows, split_by_time

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


@given(st.lists(numbers, max_size=5))
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
