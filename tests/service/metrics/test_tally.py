"""Counting many values at once, or later, equals counting one by one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.metrics.buckets import PCTR_BUCKETS
from service.metrics.families import Metrics
from service.metrics.tally import HistogramTally, Tally
from tests.running import read_metrics

VALUES = st.lists(st.floats(0.0, 2.0) | st.sampled_from(PCTR_BUCKETS), max_size=50)


def pctrs_of(metrics: Metrics) -> dict[str, float]:
    found = read_metrics(metrics.exposition()[0].decode())
    return {name: value for name, value in found.items() if name.startswith("bidlight_pctr")}


@settings(deadline=None)
@given(st.lists(VALUES, max_size=4))
def test_counting_in_pieces_equals_counting_one_by_one(pieces: list[list[float]]) -> None:
    each, later = Metrics(), Metrics()
    directly, tally = each.pctr.labels("a"), HistogramTally(later.pctr.labels("a"))
    for piece in pieces:
        tally.observe_many(np.array(piece, np.float64))
        for value in piece:
            directly.observe(value)
        assert tally.publish() == len(piece)
        assert tally.publish() == 0
    expected, found = pctrs_of(each), pctrs_of(later)
    assert found.pop('bidlight_pctr_sum{arm="a"}') == pytest.approx(
        expected.pop('bidlight_pctr_sum{arm="a"}')
    )
    assert found == expected


def test_a_tally_is_handed_on_once() -> None:
    metrics = Metrics()

    def lookups() -> float:
        return read_metrics(metrics.exposition()[0].decode())['bidlight_user_lookups_total{arm="a"}']

    tally = Tally(metrics.user_lookups.labels("a"))
    tally.inc()
    tally.inc(0.5)
    assert lookups() == 0
    for _ in range(2):
        tally.publish()
        assert lookups() == 1.5
    tally.inc(2)
    tally.publish()
    assert lookups() == 3.5
