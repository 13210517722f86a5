"""Counting many values at once, or later, equals counting one by one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, generate_latest

from service.metrics.families import PCTR_BUCKETS
from service.metrics.prometheus_internals import BulkHistogram
from service.metrics.tally import ROWS_AT_ONCE, HistogramTally, Tally, count_in_columns
from tests.running import read_metrics

VALUES = st.lists(st.floats(0.0, 2.0) | st.sampled_from(PCTR_BUCKETS), max_size=50)


def histogram_of(registry: CollectorRegistry) -> BulkHistogram:
    return BulkHistogram("h", "h", ["arm"], buckets=PCTR_BUCKETS, registry=registry).labels("a")


def read(registry: CollectorRegistry) -> dict[str, float]:
    return read_metrics(generate_latest(registry).decode())


@given(st.lists(VALUES, max_size=4))
def test_counting_in_pieces_equals_counting_one_by_one(pieces: list[list[float]]) -> None:
    each, later = CollectorRegistry(), CollectorRegistry()
    directly, tally = histogram_of(each), HistogramTally(histogram_of(later))
    for piece in pieces:
        tally.observe_many(np.array(piece, np.float64))
        for value in piece:
            directly.observe(value)
        assert tally.publish() == len(piece)
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


@given(
    st.integers(0, 3 * ROWS_AT_ONCE) | st.just(300 * ROWS_AT_ONCE), st.integers(1, 40), st.floats(0.0, 1.0)
)
def test_columns_are_counted(rows: int, columns: int, share: float) -> None:
    mask = np.random.default_rng(rows * columns).random((rows, columns)) <= share
    assert count_in_columns(mask).tolist() == [sum(column) for column in mask.T.tolist()]
