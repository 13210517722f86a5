"""Sums over many values equal those made one by one, in Python and in the native core."""

from __future__ import annotations

import math
from bisect import bisect_left
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.bundle.native import IS_BUILT
from service.metrics import counting
from service.metrics.counting import ROWS_AT_ONCE

BOUNDS = (0.001, 0.25, 0.5, math.inf)

each_way = pytest.mark.parametrize(
    ("count_ids", "count_values"),
    [
        (counting.python_count_ids, counting.python_count_values),
        pytest.param(
            counting.count_ids,
            counting.count_values,
            marks=pytest.mark.skipif(not IS_BUILT, reason="the native core is not built"),
        ),
    ],
    ids=["python", "native"],
)


@each_way
@settings(deadline=None)
@given(
    st.integers(0, 3 * ROWS_AT_ONCE) | st.just(300 * ROWS_AT_ONCE),
    st.integers(0, 40),
    st.integers(1, 4),
    st.booleans(),
)
def test_ids_are_counted_by_column(
    count_ids: Any, count_values: Any, rows: int, columns: int, values: int, is_weighted: bool
) -> None:
    draw = np.random.default_rng(rows * columns)
    ids = draw.integers(0, values, (rows, columns), dtype=np.int32)
    weights = draw.integers(0, 500, rows, dtype=np.int32)
    missing, unknown = np.full(columns, 3, np.int64), np.full(columns, 4, np.int64)
    count_ids(ids, weights if is_weighted else None, missing, unknown)
    for found, value, before in ((missing, 0, 3), (unknown, 1, 4)):
        for column in range(columns):
            chosen = [int(weights[row]) for row in range(rows) if ids[row, column] == value]
            assert found[column] == before + (sum(chosen) if is_weighted else len(chosen))


@each_way
@given(st.lists(st.floats(0.0, 1.0) | st.sampled_from(BOUNDS[:-1])))
def test_values_are_counted_by_bound(count_ids: Any, count_values: Any, values: list[float]) -> None:
    counts = np.full(len(BOUNDS), 2, np.int64)
    total = count_values(np.array(values, np.float64), np.array(BOUNDS), counts)
    expected = [2] * len(BOUNDS)
    for value in values:
        expected[bisect_left(BOUNDS, value)] += 1
    assert counts.tolist() == expected
    assert total == pytest.approx(math.fsum(values))


@each_way
def test_what_is_no_number_counts_with_the_last(count_ids: Any, count_values: Any) -> None:
    counts = np.zeros(2, np.int64)
    assert math.isnan(count_values(np.array([0.2, math.nan]), np.array([0.1, 0.5]), counts))
    assert counts.tolist() == [0, 2]


@pytest.mark.skipif(not IS_BUILT, reason="the native core is not built")
def test_the_core_writes_only_where_there_is_room() -> None:
    ids, two, three = np.zeros((4, 2), np.int32), np.zeros(2, np.int64), np.zeros(3, np.int64)
    for arguments in [
        (ids, None, three, three),
        (ids, None, two, three),
        (ids, None, three[:0], two),
        (ids, np.ones(3, np.int32), two, two),
    ]:
        with pytest.raises(ValueError, match="one count a column"):
            counting.count_ids(*arguments)
    with pytest.raises(ValueError, match="one count a bound"):
        counting.count_values(np.zeros(3), np.zeros(2), three)
    assert not two.any()
    assert not three.any()
