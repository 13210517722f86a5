"""Replays of logs: what a real service answers by the clock of a log, and what is made of that."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from benchmarks.replays import auctions
from benchmarks.replays.__main__ import main
from benchmarks.replays.auctions import Auctions
from benchmarks.replays.judge import figures_of, oracles, settled, slices_of
from benchmarks.replays.log import DAY, HOUR, Log, in_token_time, spread
from benchmarks.replays.page import page, summary_rows
from benchmarks.replays.sending import Replay, Replayed, Served, live_options, service
from benchmarks.replays.sources import Pace
from service.calibration.fit import Correction
from service.feedback.tokens import EPOCH_MS
from tests.tiny_bundle import tiny_rows, write_tiny_bundle

START = 1_700_000_000 // HOUR * HOUR
PACE = Pace(half_life=21_600, period=900, turn=900)


@pytest.fixture(scope="module")
def log() -> Log:
    """A day of a bundle that is calibrated."""
    rng = np.random.default_rng(3)
    rows = 60_000
    pctrs = 1.0 / (1.0 + np.exp(-rng.normal(-2.5, 0.8, rows)))
    seconds = START + np.arange(rows) * DAY // rows
    return Log(seconds, [], rng.random(rows) < pctrs, pctrs, pctrs)


def served(*corrections: tuple[int, float]) -> Sequence[Served]:
    """By hour and intercept."""
    found = [Served(START)]
    found += [Served(START + hour * HOUR, number, Correction(intercept, 1.0))
              for number, (hour, intercept) in enumerate(corrections, start=1)]  # fmt: skip
    return found


def test_a_shift_moves_the_base_rate_from_its_time_on_alone(log: Log) -> None:
    shift = START + DAY // 2
    for factor in (0.7, 1.3):
        shifted = log.shifted(shift, factor, np.random.default_rng(0))
        later = log.seconds >= shift
        np.testing.assert_array_equal(shifted.clicks[~later], log.clicks[~later])
        assert shifted.clicks[later].sum() / log.clicks[later].sum() == pytest.approx(factor, abs=0.05)
        assert shifted.true is not None
        assert shifted.true[later].sum() / log.own[later].sum() == pytest.approx(factor, abs=0.01)
        assert shifted.shift == shift


def test_times_of_the_hour_are_spread_and_old_ones_moved_by_whole_weeks() -> None:
    assert spread(np.array([0, 0, 0, 0, 3_600, 90_000, 90_000])).tolist() == [
        *(0, 900, 1_800, 2_700),
        3_600,
        *(90_000, 91_800),
    ]
    old = np.array([1_000_000_000, 1_000_000_007])
    moved = in_token_time(old)
    assert moved[0] >= EPOCH_MS // 1000
    assert np.unique(moved - old) % (7 * DAY) == 0
    np.testing.assert_array_equal(in_token_time(moved), moved)


def test_oracles_know_an_hour_and_the_one_before(log: Log) -> None:
    shifted = log.shifted(START + DAY // 2, 0.5, np.random.default_rng(0))
    slices = slices_of(shifted)
    assert len(slices) == 24
    itself, before = oracles(shifted, slices)

    def pcoc(pctrs: np.ndarray, hour: int) -> float:
        rows = slices[hour].rows
        return float(pctrs[rows].sum() / shifted.clicks[rows].sum())

    assert pcoc(itself, 12) == pytest.approx(1.0, abs=0.02)
    assert pcoc(before, 12) > 1.5
    assert pcoc(before, 13) == pytest.approx(1.0, abs=0.35)
    np.testing.assert_array_equal(before[slices[0].rows], log.own[slices[0].rows])


def test_settled_is_when_what_is_served_suits_the_day_after_the_shift(log: Log) -> None:
    shift = START + DAY // 2
    shifted = log.shifted(shift, 0.7, np.random.default_rng(0))
    right = float(np.log(0.7))

    def of(corrections: Sequence[Served]) -> dict[str, float | None]:
        found = settled(shifted, Replayed(log.own, log.clicks, corrections, {}, 1.0), shift)
        return {name: found[name] for name in ("minutes", "clicks", "held")}

    clicks = int(shifted.clicks[(shifted.seconds >= shift) & (shifted.seconds < shift + 2 * HOUR)].sum())
    found = of(served((13, 0.5 * right), (14, 1.1 * right)))
    assert found == {"minutes": 120, "clicks": clicks, "held": 1.0}
    found = of(served((14, 1.1 * right), (19, 0.0)))
    assert found["held"] == pytest.approx(0.5, abs=0.01)
    assert of(served((13, 0.5 * right))) == {"minutes": None, "clicks": None, "held": None}
    assert of(served((1, 1.1 * right)))["minutes"] == 0


def test_a_rival_that_knows_more_leaves_what_is_overestimated(log: Log) -> None:
    rng = np.random.default_rng(4)
    wrong = replace(log, own=np.clip(log.own * np.exp(rng.normal(0.0, 0.5, len(log))), 0.0, 0.9))
    contested = Auctions.of(wrong, 1.0, 0.3, "wins")
    found = auctions.judged(wrong, contested.without_feedback())
    assert 0.3 < found["won"] < 0.7
    assert found["pcoc_won"] > 1.2 > 1.0 > found["pcoc_lost"]
    rows, explored = np.arange(100), np.arange(100) < 50
    assert set(contested.shown(rows, wrong.own[:100], explored)) >= set(range(50))


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Log]:
    """A bundle, a folder, and half a day of requests for it, clicked twice as often as it says."""
    folder = tmp_path_factory.mktemp("replay")
    bundle = write_tiny_bundle(folder / "bundle")
    rows, rng = tiny_rows(64), np.random.default_rng(0)
    bodies = [
        msgspec.json.encode(
            {"context": row["context"], "candidates": [{"features": row["candidate"]}], "tracking": True}
        )
        for row in (rows[number % 64] for number in range(2_000))
    ]
    seconds = START + np.arange(2_000) * (DAY // 2) // 2_000
    empty = Log(seconds, bodies, np.zeros(2_000, bool), np.zeros(2_000))
    with service(bundle, folder, START, []) as (server, clock):
        own = Replay(
            server, clock, empty, replace(PACE, turn=6 * HOUR), 60.0, lambda rows, *_: rows[:0]
        ).run()
    true = np.minimum(2.0 * own.pctrs, 0.95)
    return bundle, folder, replace(empty, own=own.pctrs, true=true, clicks=rng.random(2_000) < true)


def test_a_real_service_follows_the_clicks_of_a_log_by_its_clock(ground: tuple[Path, Path, Log]) -> None:
    bundle, folder, log = ground
    with service(bundle, folder, START, live_options(PACE, 600)) as (server, clock):
        found = Replay(server, clock, log, PACE, 60.0, None).run()
    assert found.decisions["adopted"] >= 1
    assert found.was_shown.all()
    first, last = found.served[1], found.served[-1]
    assert START + 600 < first.at < START + DAY // 2  # not before a click window has passed
    assert first.at % PACE.period == 0
    before = log.seconds < first.at
    np.testing.assert_array_equal(found.pctrs[before], log.own[before])
    after = log.seconds >= last.at
    expected = last.correction.pctrs(log.own[after], 1e-6, 1.0 - 1e-6)
    np.testing.assert_allclose(found.pctrs[after], expected, rtol=1e-12)
    assert found.pctrs[after].sum() > 1.05 * log.own[after].sum()
    figures = figures_of(log, found)
    assert figures["logloss"]["live"] < figures["logloss"]["bundle"]
    shown = {"logs": {"tiny": {"title": "tiny", "about": "", "runs": {"as it is": figures}}}}
    assert len([*summary_rows(shown)]) == 1
    assert "<svg" in page(shown | {"machine": "", "commands": []})


def test_what_is_learned_from_explored_requests_alone_waits_for_them(ground: tuple[Path, Path, Log]) -> None:
    """Nothing else is won, so that without exploring nothing would be learned."""
    bundle, folder, log = ground
    rivals = replace(Auctions.of(log, 1.0, 0.1, "wins"), rivals=np.full(len(log), 10.0))
    options = live_options(PACE, 600, "--explore-share", "0.7", "--live-learn-from", "explored")
    with service(bundle, folder, START, options) as (server, clock):
        found = Replay(server, clock, log, PACE, 60.0, rivals.shown).run()
    assert found.was_shown.mean() == pytest.approx(0.7, abs=0.1)
    assert found.decisions["adopted"] >= 1
    assert found.pctrs[-1] > log.own[-1]


@pytest.mark.slow
def test_the_command_writes_a_page_and_its_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--rows", "3000", "--auction-rows", "1500", "--rows-per-day", "6000", "--out", str(tmp_path)]
    assert main(["--log", "synthetic", "auctions", *words]) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    figures = json.loads(last)
    assert [*figures["logs"]["synthetic"]["runs"]] == ["as it is", "-30%", "+30%"]
    assert {run["kind"] for run in figures["auctions"]["runs"]} >= {"none", "all", "explored"}
    assert any("synthetic, with drift" in line for line in lines)
    assert json.loads((tmp_path / "figures.json").read_text())["logs"].keys() == {"synthetic"}
    assert (tmp_path / "index.html").read_text().count("<svg") == 5


def test_a_log_of_ones_own_needs_its_schema(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["--log", "own"], ["--data", str(tmp_path), "--schema", "avazu"]):
        with pytest.raises(SystemExit):
            main(words)
        assert "'--data' and '--schema' must be given with '--log own'" in capsys.readouterr().err
