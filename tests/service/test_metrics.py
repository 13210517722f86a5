"""What is counted, and that counting many at once is counting each."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest

from service.batcher import BatchReport
from service.metrics import OTHER_NAMES, PCTR_BUCKETS, ArmMeter, BulkHistogram, Metrics
from tests.running import read_metrics
from tests.tiny_bundle import tiny_schema


@given(st.lists(st.floats(0.0, 2.0) | st.sampled_from(PCTR_BUCKETS), max_size=50))
def test_many_values_are_counted_like_each(values: list[float]) -> None:
    texts = []
    for bulk in (False, True):
        registry = CollectorRegistry()
        histogram = BulkHistogram("h", "h", ["arm"], buckets=PCTR_BUCKETS, registry=registry).labels("a")
        if bulk:
            histogram.observe_many(np.array(values, np.float64))
        else:
            for value in values:
                histogram.observe(value)
        texts.append(read_metrics(generate_latest(registry).decode()))
    each, many = texts
    assert many.pop('h_sum{arm="a"}') == pytest.approx(each.pop('h_sum{arm="a"}'))
    assert many == each


def test_a_meter_counts_features_by_field() -> None:
    metrics = Metrics()
    meter = ArmMeter(metrics, "control", tiny_schema())
    # site hour history(3) ad campaign
    meter.count_features(np.array([[0, 2, 0, 0, 0, 1, 2], [1, 0, 1, 1, 0, 3, 0]], np.int32))
    for _ in range(2):  # what was published is not published again
        meter.publish(5)
    found = read_metrics(metrics.exposition()[0].decode())

    def count(metric: str, field: str) -> float:
        return found[f'bidlight_{metric}_features_total{{arm="control",field="{field}"}}']

    fields = [field.name for field in tiny_schema().fields]
    assert [count("missing", name) for name in fields] == [1, 1, 1, 0, 1]
    assert [count("oov", name) for name in fields] == [1, 0, 2, 1, 0]
    assert found['bidlight_queued_rows{arm="control"}'] == 5


def test_batches_bids_refusals_and_names() -> None:
    metrics = Metrics()
    meter = ArmMeter(metrics, "control", tiny_schema())
    meter.count_batch(BatchReport(rows=7, callers=2, queue_seconds=0.25))
    meter.count_bids([0.1, None, 0.2])
    metrics.refuse("", "malformed_body")
    metrics.refuse("", "malformed_body")
    meter.count_unknown([f"name-{n}" for n in range(30)])
    meter.count_unknown(['odd "quoted"\n', "name-3"])
    found = read_metrics(metrics.exposition()[0].decode())
    assert found['bidlight_batch_rows_sum{arm="control"}'] == 7
    assert found['bidlight_batch_requests_sum{arm="control"}'] == 2
    assert found['bidlight_stage_seconds_total{arm="control",stage="queue"}'] == 0.25
    assert found['bidlight_candidates_total{arm="control",outcome="bid"}'] == 2
    assert found['bidlight_candidates_total{arm="control",outcome="no_bid"}'] == 1
    assert found['bidlight_requests_total{arm="",outcome="malformed_body"}'] == 2
    assert found['bidlight_unknown_names_total{arm="control",name="name-3"}'] == 2
    assert found[f'bidlight_unknown_names_total{{arm="control",name="{OTHER_NAMES}"}}'] == 11


def test_two_services_in_a_process_do_not_mix() -> None:
    first, second = Metrics(), Metrics()
    first.refuse("", "overloaded")
    name = 'bidlight_requests_total{arm="",outcome="overloaded"}'
    assert name in read_metrics(first.exposition()[0].decode())
    assert name not in read_metrics(second.exposition()[0].decode())
