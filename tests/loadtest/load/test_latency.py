"""Percentiles against numpy's, and the lines that a missed SLO prints."""

from __future__ import annotations

import math

import numpy as np
import pytest

from loadtest.load.latency import PERCENTILES, Latencies, Slo, format_summary, summary


def histogram(milliseconds: list[float], errors: int = 0) -> Latencies:
    latencies = Latencies(errors=errors)
    for each in milliseconds:
        latencies.add(each)
    return latencies


@pytest.mark.parametrize("percent", PERCENTILES)
@pytest.mark.parametrize("rows", [1, 2, 999, 20_011])
def test_percentiles_are_those_of_the_samples_within_half_a_percent(percent: float, rows: int) -> None:
    samples = np.random.default_rng(rows).lognormal(0.0, 1.5, rows)
    expected = np.percentile(samples, percent, method="inverted_cdf")
    assert histogram(samples.tolist()).percentile(percent) == pytest.approx(expected, rel=0.006)


def test_the_ends_of_the_scale() -> None:
    assert math.isnan(Latencies().percentile(50.0))
    assert histogram([0.0]).percentile(50.0) == 0.0
    assert histogram([1e-5, 1e7]).percentile(100.0) == pytest.approx(1e7, rel=0.006)


def test_two_histograms_add_up() -> None:
    samples = np.random.default_rng(0).exponential(3.0, 1_000).tolist()
    left, right = histogram(samples[:300], errors=2), histogram(samples[300:], errors=3)
    left.merge(right)
    assert left == histogram(samples, errors=5)
    assert (left.answered, left.requests) == (1_000, 1_005)


def test_a_missed_slo_says_what_was_missed() -> None:
    by_size = {"1 candidate": histogram([1.0] * 99), "100 candidates": histogram([50.0] * 10, errors=1)}
    assert Slo().missed(by_size, 2.0) == []
    assert not Slo().given
    assert Slo(p99_ms=51.0, error_rate=0.01, rps=54.0).missed(by_size, 2.0) == []
    lines = Slo(p99_ms=20.0, error_rate=0.001, rps=55.0).missed(by_size, 2.0)
    assert len(lines) == 3
    assert lines[0].startswith("p99 of 100 candidates is ")
    assert lines[0].endswith(" ms, more than 20 ms")
    assert lines[1] == "the error rate is 0.00909 (1 of 110), more than 0.001"
    assert lines[2] == "54.5 answers a second, fewer than 55"


def test_no_answers_is_a_miss_whatever_was_asked() -> None:
    assert Slo(error_rate=1.0).missed({"1 candidate": Latencies(errors=7)}, 1.0) == [
        "no request was answered (7 failed)"
    ]


def test_the_summary_and_its_table_have_a_line_a_size_and_one_for_all() -> None:
    by_size = {
        "1 candidate": histogram([1.0] * 4),
        "10 candidates": histogram([]),
        "100 candidates": histogram([9.0]),
    }
    figures = summary(by_size, 2.0)
    assert figures["all"]["answers"] == 5
    assert figures["all"]["per_second"] == 2.5
    assert figures["10 candidates"]["p99_ms"] is None
    assert figures["100 candidates"]["p99_ms"] == pytest.approx(9.0, rel=0.006)
    heads, *lines = format_summary(figures).splitlines()
    assert heads.split()[:3] == ["answers", "errors", "per"]
    assert heads.split()[-4:] == ["p99.9", "ms", "max", "ms"]
    assert [line[:16].strip() for line in lines] == [*by_size, "all"]
    assert {len(line) for line in lines} == {len(heads)}
