"""Points of the comparison -> the best setting, ratios, tables and JSON."""

from __future__ import annotations

import json

import pytest

from loadtest.load.closed_loop import Case, MeasurementError, Point, median, point_of
from loadtest.rivals import figures
from loadtest.rivals.figures import Best, Entry
from loadtest.rivals.open_loop import Peak, Share, as_json, peaks, table

ONE, MANY = Case(1, 32), Case(100, 32)


def point(rate: float, p99_ms: float = 2.0, errors: int = 0) -> Point:
    return Point(rate, 1.0, p99_ms, 3.0, errors, 1e6 / rate, 64.25)


def words(line: str) -> str:
    """A line of a table without its alignment."""
    return " ".join(line.split())


POINTS = {
    (Entry("bidlight", ""), ONE): point(40_000.0, 1.0),
    (Entry("bidlight", ""), MANY): point(4_000.0),
    (Entry("naive", ""), ONE): point(2_000.0, 40.0),
    (Entry("mosec", "no batches"), ONE): point(3_000.0),
    (Entry("mosec", "batch 32, 1 ms"), ONE): point(20_000.0),
    (Entry("mosec", "no batches"), MANY): point(5_000.0, errors=3),
    (Entry("mosec", "batch 32, 1 ms"), MANY): point(3_200.0),
    (Entry("litserve", ""), ONE): point(700.0),
}


def test_the_best_setting_of_each_contender_counts_at_each_point() -> None:
    found = {(each.entry.contender, each.case): each.entry.setting for each in figures.best_of(POINTS)}
    assert found["mosec", ONE] == "batch 32, 1 ms"
    assert found["mosec", MANY] == "batch 32, 1 ms", "a setting that fails is no best one"
    assert len(found) == 6


def test_a_contender_that_always_fails_is_shown_with_its_errors() -> None:
    only = {(Entry("mosec", ""), ONE): point(5_000.0, errors=3)}
    assert [each.point.errors for each in figures.best_of(only)] == [3]


def test_ratios_are_to_the_best_rival_and_to_the_naive_ones() -> None:
    found = figures.ratios(figures.best_of(POINTS))
    assert set(found) == {"best_rival", "naive"}
    one, many = found["best_rival"]
    assert (one.case, one.of.entry.contender, one.requests, one.p99) == (ONE, "mosec", 2.0, 0.5)
    assert (many.case, many.requests) == (MANY, 1.25)
    assert [(each.case, each.requests, each.p99) for each in found["naive"]] == [(ONE, 20.0, 0.025)]


def test_ours_with_the_graph_of_the_rivals_is_held_against_the_best_of_them_too() -> None:
    plain = {(Entry("bidlight_plain", ""), MANY): point(3_520.0, 4.0)}
    found = figures.ratios(figures.best_of({**POINTS, **plain}))
    assert list(found) == ["best_rival", "bidlight_plain_over_best_rival", "naive", "bidlight_plain"]
    (ratio,) = found["bidlight_plain_over_best_rival"]
    assert (ratio.case, ratio.of.entry.contender) == (MANY, "mosec")
    assert (ratio.requests, ratio.p99) == (1.1, 2.0)
    head, one, many = (words(line) for line in figures.ratio_table(found).splitlines())
    assert head == "candidates connections best rival bidlight plain over best rival naive bidlight plain"
    assert one == "1 32 2.00 (p99 0.50) mosec - 20.00 (p99 0.03) -"
    assert many == "100 32 1.25 (p99 1.00) mosec 1.10 (p99 2.00) mosec - 1.14 (p99 0.50)"
    as_json = figures.ratio_as_json("bidlight_plain_over_best_rival", ratio)
    assert (as_json["contender"], as_json["over"]) == ("bidlight_plain", "mosec")
    assert figures.ratio_as_json("best_rival", found["best_rival"][0])["contender"] == "bidlight"


def test_without_ours_there_are_no_ratios() -> None:
    others = {key: each for key, each in POINTS.items() if key[0].contender != "bidlight"}
    assert figures.ratios(figures.best_of(others)) == {}


def test_the_table_has_a_line_a_contender_and_point_in_the_order_of_the_points() -> None:
    lines = figures.table(figures.best_of(POINTS)).splitlines()
    heads = "candidates connections contender req/s p50 ms p99 ms p99.9 ms errors cpu us MB setting"
    assert words(lines[0]) == heads
    assert [line.split()[:3] for line in lines[1:]] == [
        ["1", "32", "bidlight"],
        ["1", "32", "naive"],
        ["1", "32", "mosec"],
        ["1", "32", "litserve"],
        ["100", "32", "bidlight"],
        ["100", "32", "mosec"],
    ]
    assert words(lines[3]) == "1 32 mosec 20,000 1.00 2.00 3.00 0 50 64 batch 32, 1 ms"
    ratios = figures.ratio_table(figures.ratios(figures.best_of(POINTS))).splitlines()
    assert words(ratios[1]) == "1 32 2.00 (p99 0.50) mosec 20.00 (p99 0.03)"


def test_unknown_processor_time_and_memory_are_dashes_and_nulls() -> None:
    unknown = Best(Entry("naive", ""), ONE, Point(10.0, 1.0, 2.0, 3.0, 0, None, None))
    assert figures.table([unknown]).splitlines()[1].split()[-2:] == ["-", "-"]
    assert figures.as_json(unknown)["cpu_us_per_request"] is None
    assert figures.as_json(unknown)["rss_mb"] is None


def test_a_point_as_json_has_the_promised_names() -> None:
    found = figures.as_json(figures.best_of(POINTS)[0])
    assert json.loads(json.dumps(found)) == {
        "contender": "bidlight",
        "candidates": 1,
        "connections": 32,
        "requests_per_second": 40000.0,
        "p50_ms": 1.0,
        "p99_ms": 1.0,
        "p999_ms": 3.0,
        "errors": 0,
        "cpu_us_per_request": 25.0,
        "rss_mb": 64.2,
        "setting": "",
    }


def test_refused_requests_count_neither_for_the_rate_nor_for_its_cost() -> None:
    percentiles = {"p50_ms": 1.0, "p99_ms": 2.0, "p999_ms": 3.0}
    figures = {"answers": 1_000, "refused": 600, "broken": 3, "seconds": 2.0, **percentiles}
    found = point_of(figures, "http://here", cpu_seconds=0.1, memory_mb=64.0)
    assert found == Point(200.0, 1.0, 2.0, 3.0, 603, 250.0, 64.0)
    assert point_of(figures, "http://here", cpu_seconds=None, memory_mb=None).cpu_us is None
    with pytest.raises(MeasurementError, match=r"http://here must .* \(got 1000 other answers and 3 broken"):
        point_of({**figures, "refused": 1_000}, "http://here", cpu_seconds=0.1, memory_mb=None)


def test_rounds_are_summed_up_by_medians_and_errors_add_up() -> None:
    rounds = [
        Point(10.0, 1.0, 5.0, 9.0, 1, None, 60.0),
        Point(30.0, 3.0, 4.0, 7.0, 0, 7.0, 61.0),
        Point(20.0, 8.0, 6.0, 8.0, 2, 9.0, 99.0),
    ]
    assert median(rounds) == Point(20.0, 3.0, 5.0, 8.0, 3, 8.0, 61.0)
    assert median([Point(1.0, 1.0, 1.0, 1.0, 0, None, None)]).cpu_us is None


def test_a_peak_is_the_most_that_any_number_of_connections_gave() -> None:
    best = [
        Best(Entry("mosec", "no batches"), Case(1, 1), point(2_000.0)),
        Best(Entry("mosec", "batch 32, 1 ms"), Case(1, 32), point(20_000.0)),
        Best(Entry("mosec", "no batches"), Case(100, 1), point(1_000.0)),
    ]
    assert peaks(best) == [
        Peak(Entry("mosec", "batch 32, 1 ms"), 1, 20_000.0),
        Peak(Entry("mosec", "no batches"), 100, 1_000.0),
    ]


@pytest.mark.parametrize(("limited", "mark"), [(0.0, "0.05"), (1.0, "0.05*"), (0.5, "0.05*")])
def test_a_share_that_the_client_limited_is_marked(limited: float, mark: str) -> None:
    run = {"asked_a_second": 100.0, "answered_a_second": 99.0, "p50_ms": 1.0, "p99_ms": 2.0, "p999_ms": 3.0}
    run |= {"errors": 0, "unanswered": 1, "lag_p99_ms": 0.05, "limited_by_client": limited}
    share = Share(Peak(Entry("mosec", ""), 1, 200.0), 50, run)
    expected = f"1 mosec 50 100 99 1.00 2.00 3.00 0 1 {mark}"
    assert words(table([share]).splitlines()[1]) == expected
    assert as_json(share)["percent_of_peak"] == 50
    assert as_json(share)["limited_by_client"] is bool(limited)
