"""A search that outlives its process draws the same points as one that was never interrupted."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from export.train.choices import TrainChoice
from export.tune.records import TrialRecord
from export.tune.space import BATCH, FTRL_ALPHA, LINEAR_L2, OPTIMIZER, RATE, Space
from export.tune.study import JOURNAL, WHOLE_TRIALS, Asked, Study

SPACE = Space(
    "lr", {}, TrainChoice(), 20_000, 3_000, True, (), (RATE, BATCH, OPTIMIZER, LINEAR_L2, FTRL_ALPHA)
)
WARM_UP = 2


def opened(folder: Path, *, seed: int = 0) -> Study:
    folder.mkdir(exist_ok=True)
    return Study(folder, SPACE, seed=seed, metric="logloss", warm_up=WARM_UP)


def end(study: Study, asked: Asked, **said: Any) -> None:
    """Ends a trial with a score that is least for a rate of twice the default."""
    score = abs(float(asked.values["learning_rate_times"]) - 2.0)
    record = {"state": "finished", "score": score, "settings": {}, "seconds": 1.0, "evaluations": 3}
    study.tell(asked, TrialRecord(number=asked.number, values=asked.values, **(record | said)))


def run(study: Study, trials: int) -> None:
    for _ in range(trials):
        end(study, study.ask())


def points(study: Study) -> list[dict[str, Any]]:
    return [one.values for one in study.done()]


@pytest.fixture
def uninterrupted(tmp_path: Path) -> Study:
    study = opened(tmp_path / "uninterrupted")
    run(study, 12)
    return study


def test_the_first_trial_has_the_defaults_and_later_ones_come_nearer(uninterrupted: Study) -> None:
    done = uninterrupted.done()
    assert done[0].values == SPACE.defaults()
    assert [one.number for one in done] == list(range(1, 13))
    assert len({str(one.values) for one in done}) == 12
    assert min(one.height for one in done) < 0.3


@pytest.mark.parametrize("killed_at", [1, 4, 9])
def test_a_trial_whose_process_is_killed_is_drawn_again(
    uninterrupted: Study, tmp_path: Path, killed_at: int
) -> None:
    run(opened(tmp_path / "killed"), killed_at - 1)
    before = opened(tmp_path / "killed").ask()
    before.is_hopeless(1, 9.0)  # the process ends here, within the trial
    study = opened(tmp_path / "killed")
    assert len(study.done()) == killed_at - 1
    run(study, 12 - len(study.done()))
    assert points(study) == points(uninterrupted)


def test_another_seed_draws_other_points(uninterrupted: Study, tmp_path: Path) -> None:
    study = opened(tmp_path / "other", seed=1)
    run(study, 3)
    assert points(study)[0] == points(uninterrupted)[0]
    assert points(study)[1:] != points(uninterrupted)[1:3]


def test_a_torn_line_and_a_lock_of_a_killed_process_are_no_hindrance(tmp_path: Path) -> None:
    run(opened(tmp_path / "torn"), 3)
    journal = tmp_path / "torn" / JOURNAL
    with journal.open("ab") as file:
        file.write(b'{"op_code":5,"worker')
    journal.with_name(f"{JOURNAL}.lock").symlink_to(journal)
    started = time.monotonic()
    study = opened(tmp_path / "torn")
    run(study, 1)
    assert time.monotonic() - started < 10  # Optuna itself would wait 30 seconds for the lock
    assert len(opened(tmp_path / "torn").done()) == 4


def test_a_trial_is_hopeless_only_where_most_were_better_at_the_same_evaluation(tmp_path: Path) -> None:
    study = opened(tmp_path / "early")
    for number in range(WHOLE_TRIALS):
        asked = study.ask()
        assert not any(asked.is_hopeless(at, 0.5 - 0.01 * at + 0.001 * number) for at in range(1, 6))
        end(study, asked, score=0.45 + 0.001 * number)
    asked = study.ask()
    assert [asked.is_hopeless(at, 0.6) for at in range(1, WARM_UP + 1)] == [False] * (WARM_UP - 1) + [True]
    end(study, asked, state="ended early", score=0.6)
    asked = study.ask()
    assert not any(asked.is_hopeless(at, 0.4) for at in range(1, 6))
    end(study, asked, state="failed", score=None, reason="it diverged")
    assert [one.state for one in opened(tmp_path / "early").done()[-2:]] == ["ended early", "failed"]
