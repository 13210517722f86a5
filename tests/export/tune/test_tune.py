"""A whole search on small logs: it finds what is better, survives its process, and says what it won."""

from __future__ import annotations

import shlex
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from export.cli.knob_options import given_of
from export.cli.options import build_parser
from export.data.encoded import open_log
from export.errors import ExportError
from export.stages.plan import LogPlan
from export.train import fitting
from export.train.choices import EmbeddingChoice, TrainChoice
from export.train.fitting import Fitting
from export.trials import Budget
from export.tune.fit import Subject, subject_of
from export.tune.page import tune_page
from export.tune.plan import FEWEST_TRIALS, SHORT_SEARCH, TunePlan, short_search
from export.tune.records import Found, TrialRecord
from export.tune.search import is_used_up, study_folder
from export.tune.tune import JSON, PAGE, TOML, command_with, tune
from service.bundle.folders import locked
from tests.browser import check_readable, needs_chromium

TRIALS = 4
ROOT = Path(__file__).parents[3]

KILLED = """
import os, signal, sys
from pathlib import Path
from export.train.choices import TrainChoice
from export.tune.plan import TunePlan
from export.tune import search
from export.tune.tune import tune

is_hopeless = search.Asked.is_hopeless

def killed(asked, evaluation, score):
    if asked.number == 3 and evaluation == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return is_hopeless(asked, evaluation, score)

search.Asked.is_hopeless = killed
work, out = map(Path, sys.argv[1:])
tune(TunePlan(work=work, out=out, model="lr", training=TrainChoice(epochs=2, threads=1), trials=4))
"""


@pytest.fixture
def plan(shop_work: Path, tmp_path: Path) -> TunePlan:
    """A search of an lr on the shop's log, in a work folder of the test's own."""
    shutil.copytree(shop_work, tmp_path / "work")
    training = TrainChoice(epochs=2, threads=1)
    return TunePlan(
        work=tmp_path / "work", out=tmp_path / "out", model="lr", training=training, trials=TRIALS
    )


@pytest.fixture(scope="module")
def uninterrupted(shop_work: Path, tmp_path_factory: pytest.TempPathFactory) -> Found:
    """What the search of `plan` finds."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    shutil.copytree(shop_work, folder / "work")
    training = TrainChoice(epochs=2, threads=1)
    plan = TunePlan(work=folder / "work", out=folder / "out", model="lr", training=training, trials=TRIALS)
    return tune(plan, say=quiet)


def quiet(_: str) -> None:
    """Takes a line."""


def same(trials: tuple[TrialRecord, ...]) -> list[TrialRecord]:
    """Trials without what differs from run to run."""
    return [msgspec.structs.replace(one, seconds=0.0) for one in trials]


def test_bad_defaults_are_found_out_and_the_win_stands(
    plan: TunePlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(fitting.FITTINGS, "lr", Fitting(learning_rate=2e-4, epochs=2))
    lines: list[str] = []
    found = tune(plan, say=lines.append)
    assert found.trials[0].settings == {}
    assert found.trials[0].values["learning_rate_times"] == 1.0
    assert found.best != 1
    assert found.trials[found.best - 1].height < found.trials[0].height - 0.01
    assert found.won is not None
    assert found.won.beyond_noise
    assert found.won.gain.delta > 0.01
    assert found.settings == found.trials[found.best - 1].settings
    assert "beyond noise" in found.verdict
    assert sum(line.startswith("trial ") for line in lines) == TRIALS
    assert tomllib.loads((plan.out / TOML).read_text()) == {"lr": {"epochs": 2, **found.settings}}
    assert msgspec.json.decode((plan.out / JSON).read_bytes(), type=Found) == found
    page = (plan.out / PAGE).read_text()
    assert page.count("<svg") == 2
    assert found.verdict.partition(":")[0] in page
    assert f"--settings {plan.out / TOML}" in lines[-1]


@needs_chromium
def test_a_browser_shows_the_page_and_its_figures_whole(uninterrupted: Found, tmp_path: Path) -> None:
    page = tune_page(uninterrupted, "[lr]\nepochs = 2\n")
    check_readable(page, tmp_path, figures=2, text=500)  # the history, what was varied


def test_on_noise_nothing_is_won(noise_work: Path, plan: TunePlan, tmp_path: Path) -> None:
    shutil.copytree(noise_work, tmp_path / "noise")
    found = tune(replace(plan, work=tmp_path / "noise"), say=quiet)
    assert "nothing" in found.verdict
    assert found.won is None or found.won.gain.low < 0
    if found.won is not None and found.won.gain.delta <= 0:
        assert found.settings == {}


def test_more_trials_go_on_and_the_same_command_gives_the_same_search(
    plan: TunePlan, uninterrupted: Found
) -> None:
    tune(replace(plan, trials=2), say=quiet)
    lines: list[str] = []
    found = tune(plan, say=lines.append)
    assert lines[0].startswith("2 trials are kept")
    assert same(found.trials) == same(uninterrupted.trials)
    assert (found.settings, found.won) == (uninterrupted.settings, uninterrupted.won)


def test_a_killed_search_goes_on_where_it_was(plan: TunePlan, uninterrupted: Found) -> None:
    arguments = [sys.executable, "-c", KILLED, plan.work, plan.out]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not (plan.out / TOML).exists()
    lines: list[str] = []
    resumed = tune(plan, say=lines.append)
    assert lines[0].startswith("2 trials are kept")
    assert same(resumed.trials) == same(uninterrupted.trials)


def test_an_interrupted_search_writes_its_best_and_says_how_to_go_on(plan: TunePlan) -> None:
    def interrupt_at(prefix: str) -> Callable[[str], None]:
        def say(line: str) -> None:
            lines.append(line)
            if line.startswith(prefix):
                raise KeyboardInterrupt

        return say

    lines: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        tune(plan, say=interrupt_at("trial 3"))
    assert "interrupted after 3 trials" in lines[-2]
    assert "not checked" in (plan.out / TOML).read_text()
    with pytest.raises(KeyboardInterrupt):
        tune(plan, say=interrupt_at("checking"))
    lines.clear()
    found = tune(plan, say=lines.append)
    assert len(found.trials) == TRIALS
    assert lines[0].startswith(f"{TRIALS} trials are kept")
    assert not any(line.startswith("trial ") and "/" in line for line in lines)
    assert "not checked" not in (plan.out / TOML).read_text()


def test_other_inputs_have_a_search_of_their_own(plan: TunePlan, noise_work: Path) -> None:
    def kept_in(work: Path, other: TunePlan) -> Path:
        log = open_log(work / "log")
        subject = subject_of(log, other.model, other.hyperparameters, other.embedding, other.training)
        return study_folder(plan.work, subject)

    training = plan.training
    others = [
        plan,
        replace(plan, training=training.updated(seed=1)),
        replace(plan, training=training.updated(epochs=1)),
        replace(plan, training=training.updated(linear_l2=0.1)),
        replace(plan, training=training.updated(stopping_metric="auc")),
        replace(plan, model="fm"),
        replace(plan, model="fm", hyperparameters={"dim": 2}),
        replace(plan, model="fm", embedding=EmbeddingChoice(embedding="hashed", least_ids=1)),
    ]
    folders = [kept_in(plan.work, other) for other in others] + [kept_in(noise_work, plan)]
    assert len(set(folders)) == len(folders)
    assert kept_in(plan.work, replace(plan, training=training.updated(threads=2))) == folders[0]


def test_one_search_is_run_by_one_process_while_others_of_the_folder_go_on(plan: TunePlan) -> None:
    log = open_log(plan.work / "log")
    subject = subject_of(log, "lr", {}, EmbeddingChoice(), plan.training)
    folder = study_folder(plan.work, subject)
    folder.mkdir(parents=True)
    with locked(folder):
        with pytest.raises(ExportError, match="one process at a time"):
            tune(plan, say=quiet)
        tune(replace(plan, trials=1, training=plan.training.updated(seed=1)), say=quiet)


def test_the_stopping_metric_judges_trials(plan: TunePlan) -> None:
    found = tune(replace(plan, trials=3, training=plan.training.updated(stopping_metric="auc")), say=quiet)
    assert found.metric == "auc"
    assert found.trials[found.best - 1].height == max(one.height for one in found.trials)
    assert found.trials[0].height > 0.6


def test_a_log_is_encoded_once(shop: LogPlan, tmp_path: Path) -> None:
    plan = TunePlan(
        work=tmp_path / "work", out=tmp_path / "out", log=shop, model="lr", trials=1,
        training=TrainChoice(epochs=1, threads=1),
    )  # fmt: skip
    lines: list[str] = []
    tune(plan, say=lines.append)
    assert any(line.startswith("encoded") for line in lines)
    assert "export run --data" in lines[-1]
    lines.clear()
    tune(plan, say=lines.append)
    assert lines[0] == "kept from an earlier run"


def test_settings_that_cannot_be_trained_are_failed_trials(
    plan: TunePlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit = Subject.fit

    def failing(self: Subject, settings: dict[str, object], **rest: object) -> object:
        if settings and "seed" not in rest:
            raise ExportError("the training loss must stay finite (got nan by step 3); lower 'learning_rate'")
        return fit(self, settings, **rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Subject, "fit", failing)
    lines: list[str] = []
    found = tune(replace(plan, trials=3), say=lines.append)
    assert [one.state for one in found.trials] == ["finished", "failed", "failed"]
    assert "must stay finite" in found.trials[1].reason
    assert found.best == 1
    assert any("trial 2/3: failed" in line for line in lines)


def test_defaults_that_cannot_be_trained_are_told_each_time(plan: TunePlan) -> None:
    diverging = replace(plan, trials=1, training=TrainChoice(epochs=1, threads=1, learning_rate=1e30))
    for _ in range(2):
        with pytest.raises(ExportError, match=r"the defaults must be trainable .* must stay finite"):
            tune(diverging, say=quiet)


def test_settings_that_other_seeds_cannot_be_trained_with_are_not_taken(
    plan: TunePlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit = Subject.fit

    def failing(self: Subject, settings: dict[str, object], **rest: object) -> object:
        if settings and "seed" in rest:
            raise ExportError("the training loss must stay finite (got nan by step 3); lower 'learning_rate'")
        return fit(self, settings, **rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Subject, "fit", failing)
    training = plan.training.updated(learning_rate=1e-5)  # so that another batch or penalty is better
    found = tune(replace(plan, training=training, trials=4), say=quiet)
    assert found.best != 1
    assert found.settings == {}
    assert found.verdict.startswith("tuning won nothing: the best settings cannot be trained with other")
    assert "must stay finite" in (plan.out / TOML).read_text()


def test_the_command_with_the_settings_reads_the_log_and_keeps_embeddings_in_the_same_way(
    plan: TunePlan, shop: LogPlan, tmp_path: Path
) -> None:
    log = replace(shop, split=(0.6, 0.2, 0.1, 0.1), min_count=3)
    embedding = EmbeddingChoice(embedding="hashed", collisions=2, pooling="sum")
    command = command_with(replace(plan, log=log, embedding=embedding), tmp_path / "my settings.toml")
    python, dash_m, program, *words = shlex.split(command)
    assert (python, dash_m, program) == ("python", "-m", "export")
    options = build_parser().parse_args(words)
    assert (options.command, options.settings) == ("run", tmp_path / "my settings.toml")
    assert LogPlan(**given_of(LogPlan, options)) == log
    assert EmbeddingChoice(**given_of(EmbeddingChoice, options)) == embedding
    options = build_parser().parse_args(shlex.split(command_with(plan, tmp_path / "a.toml"))[3:])
    assert (options.command, options.work) == ("train", plan.work)


def test_a_work_folder_without_a_log_names_the_stage_that_makes_one(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="fit-schema"):
        tune(TunePlan(work=tmp_path / "nothing", out=tmp_path / "out"), say=quiet)


def test_a_search_of_nothing_is_refused(plan: TunePlan) -> None:
    given = plan.training.updated(learning_rate=0.01, batch_size=64, linear_l2=1e-4)
    with pytest.raises(ExportError, match="something to vary"):
        tune(replace(plan, training=given), say=quiet)


def trial(number: int, seconds: float) -> TrialRecord:
    return TrialRecord(
        number=number, state="finished", values={}, settings={}, score=0.5, seconds=seconds, evaluations=4
    )


def test_time_for_the_check_is_set_aside() -> None:
    done = (trial(1, 10.0), trial(2, 20.0), trial(3, 10.0))
    budget = Budget(None, seconds=180.0)  # the check takes 90, a typical trial 10
    assert not is_used_up(budget, done, done[1], 79.0)
    assert is_used_up(budget, done, done[1], 81.0)
    assert not is_used_up(budget, (), None, 1e9)  # the defaults are always tried
    assert is_used_up(Budget(3, seconds=1e9), done, done[0], 0.0)


def test_a_short_search_has_fewer_trials_on_a_longer_log() -> None:
    trials = [short_search(rows) for rows in (1_000, 100_000, 100_001, 1_000_001, 10**9)]
    assert trials == [*[SHORT_SEARCH[100_000]] * 2, SHORT_SEARCH[1_000_000], FEWEST_TRIALS, FEWEST_TRIALS]
    assert sorted(trials, reverse=True) == trials
