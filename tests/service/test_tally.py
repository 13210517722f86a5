"""Counting many at once, or later, is counting each."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, Counter, generate_latest

from service.metrics import PCTR_BUCKETS
from service.tally import (
    BLOCK_ROWS,
    ROWS_AT_ONCE,
    Block,
    BulkHistogram,
    HistogramTally,
    Tally,
    count_in_columns,
)
from tests.running import read_metrics

VALUES = st.lists(st.floats(0.0, 2.0) | st.sampled_from(PCTR_BUCKETS), max_size=50)


def histogram_of(registry: CollectorRegistry) -> BulkHistogram:
    return BulkHistogram("h", "h", ["arm"], buckets=PCTR_BUCKETS, registry=registry).labels("a")


def read(registry: CollectorRegistry) -> dict[str, float]:
    return read_metrics(generate_latest(registry).decode())


@given(st.lists(st.tuples(VALUES, VALUES), max_size=4))
def test_values_counted_in_any_pieces_are_counted_like_each(
    pieces: list[tuple[list[float], list[float]]],
) -> None:
    each, later = CollectorRegistry(), CollectorRegistry()
    directly, tally = histogram_of(each), HistogramTally(histogram_of(later))
    for singly, together in pieces:
        for value in singly:
            tally.observe(value)
        tally.observe_many(np.array(together, np.float64))
        for value in (*singly, *together):
            directly.observe(value)
        tally.settle(most=20)
        assert tally.publish() == len(singly) + len(together)
        assert tally.publish() == 0
    expected, found = read(each), read(later)
    assert found.pop('h_sum{arm="a"}') == pytest.approx(expected.pop('h_sum{arm="a"}'))
    assert found == expected


def test_a_tally_is_handed_on_once() -> None:
    registry = CollectorRegistry()
    tally = Tally(Counter("c", "c", registry=registry))
    tally.inc()
    tally.inc(0.5)
    assert read(registry)["c_total"] == 0
    for _ in range(2):
        tally.publish()
        assert read(registry)["c_total"] == 1.5
    tally.inc(2)
    tally.publish()
    assert read(registry)["c_total"] == 3.5


@pytest.mark.parametrize("shape", [(), (3,)])
@pytest.mark.parametrize("sizes", [[1], [BLOCK_ROWS], [BLOCK_ROWS - 1, 1, 1], [5, 2 * BLOCK_ROWS + 7, 3]])
def test_a_block_counts_every_row_once_and_in_order(shape: tuple[int, ...], sizes: list[int]) -> None:
    counted: list[int] = []

    def count(rows: NDArray[np.int32], numbers: NDArray[np.int64]) -> None:
        assert rows.reshape(len(rows), -1)[:, 0].tolist() == numbers.tolist()
        counted.extend(numbers.tolist())

    block = Block(count, (shape, np.int32), ((), np.int64))
    reused = np.empty((max(sizes), *shape), np.int32)
    start = 0
    for size in sizes:
        rows = reused[:size]
        rows[...] = np.arange(start, start + size).reshape(-1, *[1] * len(shape))
        block.observe_many(rows, np.arange(start, start + size))
        rows[...] = -1  # whoever brought them may use the array again
        start += size
    assert len(counted) >= start // BLOCK_ROWS * BLOCK_ROWS - BLOCK_ROWS
    for _ in range(2):
        block.publish()
        assert counted == list(range(start))


@given(st.integers(0, 3 * ROWS_AT_ONCE) | st.just(BLOCK_ROWS), st.integers(1, 40), st.floats(0.0, 1.0))
def test_columns_are_counted(rows: int, columns: int, share: float) -> None:
    mask = np.random.default_rng(rows * columns).random((rows, columns)) <= share
    assert count_in_columns(mask).tolist() == [sum(column) for column in mask.T.tolist()]
