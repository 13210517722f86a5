"""The replay of a log: what it answers, when it has followed a shift, and that the command measures one."""

from __future__ import annotations

import json

import numpy as np
import pytest

from benchmarks.live_calibration import (
    DAY,
    HOUR,
    Log,
    auctions,
    judged,
    logloss,
    main,
    oracle,
    replay,
    settled,
)
from service.settings import Settings

START = 1_700_000_000 // HOUR * HOUR
SETTINGS = Settings(click_window_seconds=600)


@pytest.fixture(scope="module")
def log() -> Log:
    """A day of a bundle that is calibrated."""
    rng = np.random.default_rng(3)
    rows = 60_000
    pctrs = 1.0 / (1.0 + np.exp(-rng.normal(-2.5, 0.8, rows)))
    seconds = START + np.arange(rows) * DAY // rows
    return Log(seconds, pctrs, rng.random(rows) < pctrs)


def test_a_calibrated_log_is_answered_much_as_the_bundle_does(log: Log) -> None:
    found = replay(log, SETTINGS, 60.0, np.random.default_rng(0))
    assert logloss(log.clicks, found.pctrs) < logloss(log.clicks, log.pctrs) + 5e-4
    assert logloss(log.clicks, oracle(log)) < logloss(log.clicks, log.pctrs)


def test_a_shift_is_followed_within_hours_and_nothing_is_known_before_it(log: Log) -> None:
    shift = START + DAY // 2
    shifted = log.shifted(shift, 0.3, np.random.default_rng(0))
    found = judged(shifted, SETTINGS, 60.0, shift, hours=6)
    loss = found["logloss"]
    assert loss["oracle"] < loss["live"] < loss["bundle"]
    assert 10 <= found["settled_minutes"] <= 120  # not before a click window has passed
    assert found["held"] > 0.6
    last = found["by_hour"][-1]
    assert last["bundle"] > 1.3
    assert last["live"] == pytest.approx(1.0, abs=0.08)
    plain, other = (replay(each, SETTINGS, 60.0, np.random.default_rng(0)) for each in (log, shifted))
    before = log.seconds < shift
    np.testing.assert_array_equal(plain.pctrs[before], other.pctrs[before])


def test_feedback_of_won_auctions_alone_draws_all_others_down(log: Log) -> None:
    """The bundle does not know what its rivals know, so it wins where it bids too much."""
    rng = np.random.default_rng(4)
    true = 1.0 / (1.0 + np.exp(-np.log(log.pctrs / (1.0 - log.pctrs)) - rng.normal(0.0, 0.7, len(log.pctrs))))
    rivals = true * np.exp(rng.normal(0.0, 0.3, len(true)))
    contested = Log(log.seconds, log.pctrs, rng.random(len(true)) < true, rivals)
    found = auctions(contested, SETTINGS, 60.0)
    assert found["bundle"]["pcoc_won"] > 1.2
    assert found["live"]["pcoc_won"] < found["bundle"]["pcoc_won"]
    assert found["live"]["pcoc_all"] < found["bundle"]["pcoc_all"] - 0.1
    assert found["live"]["won"] < found["bundle"]["won"]


def test_what_never_follows_has_not_settled(log: Log) -> None:
    shift = START + DAY // 2
    shifted = log.shifted(shift, 0.9, np.random.default_rng(0))
    settings = SETTINGS.model_copy(update={"live_max_change": 0.1})
    found = replay(shifted, settings, 60.0, np.random.default_rng(0))
    assert settled(shifted, found, shift) == (None, None)


def test_the_command_trains_replays_and_prints_figures(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--rows", "5000", "--rows-per-day", "10000"]) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    figures = json.loads(last)
    assert set(figures["plain"]["logloss"]) == {"bundle", "live", "oracle"}
    assert "settled_minutes" in figures["shifted"]
    assert 0.0 < figures["auctions"]["live"]["won"] < 1.0
    assert sum(line.startswith("LogLoss:") for line in lines) == 2


def test_a_log_needs_its_schema(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--data", "log.csv"])
    assert "'--schema' must be given with '--data'" in capsys.readouterr().err
