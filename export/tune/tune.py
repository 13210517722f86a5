"""The command tune: the encoded log -> a search -> its check -> settings.toml, tune.json and tune.html.

`tune_before_run` is the same with a fixed number of trials, before the training of a run.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from export.data.encoded import EncodedLog, open_log
from export.data.log_schema import load_log_schema
from export.errors import ExportError
from export.knobs import as_options
from export.report.files import write_texts
from export.report.settings_text import said
from export.stages.fit_schema import kept_log
from export.stages.plan import Plan
from export.stages.records import LogSummary, Searched
from export.stages.taught import Taught, check_distillation, taught_log
from export.stages.train import check_device
from export.stages.work import Say, Work
from export.train.build import check_fields, check_model
from export.train.choices import EmbeddingChoice, TrainChoice
from export.trials import Budget
from export.tune.fit import Subject, subject_of
from export.tune.page import tune_page
from export.tune.plan import TunePlan, short_search
from export.tune.records import Found, TrialRecord, Won, ranked
from export.tune.search import search, study_folder
from export.tune.settings import as_toml
from export.tune.study import Study
from export.tune.tables import NAMES, best_table, verdict
from export.tune.won import estimate
from service.bundle.folders import locked
from service.bundle.json_files import encode_json

TOML, JSON, PAGE = "settings.toml", "tune.json", "tune.html"

# A trial may be ended early only after this share of its epochs: a small step size is slow at first.
PATIENT_SHARE = 0.25

# Of all settings that are given, those that a settings file cannot hold.
NOT_SETTINGS = ("seed", "device", "threads")


def tune(plan: TunePlan, *, say: Say = print) -> Found:
    """Searches, checks the best, and writes OUT. Raises ExportError where nothing can be searched.

    The work folder is held only while its log is made: several models may be tuned on it at a time. Ctrl-C
    writes what was found until then and says how to go on.
    """
    check_model(plan.model, plan.hyperparameters)
    check_distillation(plan.training, ())
    if plan.log is not None:
        check_fields(plan.model, plan.hyperparameters, load_log_schema(plan.log.schema), plan.embedding)
    check_device(plan.training.config(rows=1, model=plan.model).device)
    plan.out.mkdir(parents=True, exist_ok=True)
    log = _log(plan, say)
    subject = subject_of(log, plan.model, plan.hyperparameters, plan.embedding, plan.training)
    found = _search(subject, plan.work, plan.budget, plan.out, say)
    settings = plan.out / TOML
    say("\n".join(["", *best_table(found.trials, found.metric), "", found.verdict]))
    say(f"wrote {settings}, {JSON} and {PAGE}; the settings: {said(found.settings)}")
    say(f"use them: {command_with(plan, settings)}")
    return found


def command_with(plan: TunePlan, settings: Path) -> str:
    """The command line that trains with a search's settings on the same log."""
    # A settings file does not say how embeddings are kept.
    chosen = ["--settings", str(settings), *as_options(plan.embedding, EmbeddingChoice)]
    if plan.log is None:
        words = ["train", *chosen, "--work", str(plan.work)]
    else:
        words = ["run", *plan.log.log_options, *chosen, "--out", "FOLDER"]
    return shlex.join(["python", "-m", "export", *words])


def tune_before_run(
    plan: Plan, summary: LogSummary, work: Work, taught: Taught | None, say: Say
) -> tuple[Mapping[str, Any], TrainChoice, Searched]:
    """A short search with the log of a run: hyperparameters and training for it, and what it records.

    Where the run has teachers, they teach in each trial.
    """
    log = taught_log(work, open_log(work.path("log")), taught)
    subject = subject_of(log, plan.model, plan.hyperparameters, plan.embedding, plan.training)
    trials = short_search(summary.rows["train"])
    say(f"a short search: {trials} trials, by the {summary.rows['train']:,} training rows")
    found = _search(subject, work.folder, Budget(trials), None, say)
    for line in (*best_table(found.trials, found.metric), found.verdict):
        say(line)
    hyperparameters, training = subject.space.split(found.settings)
    return hyperparameters, training, Searched(len(found.trials), found.settings, found.verdict)


def _log(plan: TunePlan, say: Say) -> EncodedLog:
    """The log of the work folder, made anew where the plan names another one."""
    if plan.log is None:
        return open_log(Work(plan.work).path("log"))
    with Work(plan.work).held(new=True) as work:
        kept_log(work, plan.log, say=say)
        return open_log(work.path("log"))


def _search(subject: Subject, work: Path, budget: Budget, out: Path | None, say: Say) -> Found:
    """The search and its check; the three files go to `out`, or beside the search's journal."""
    started = time.perf_counter()
    folder = study_folder(work, subject)
    folder.mkdir(parents=True, exist_ok=True)
    out = out or folder
    usual = subject.space.config({})
    with _alone(folder):
        study = Study(
            folder,
            subject.space,
            seed=usual.seed,
            metric=subject.metric,
            warm_up=round(PATIENT_SHARE * usual.epochs * usual.evaluations_per_epoch),
        )
        try:
            trials = search(subject, study, budget, say=say)
            end = _checked(subject, ranked(trials, subject.metric)[0], say)
        except KeyboardInterrupt:
            _write_interrupted(subject, study, out, time.perf_counter() - started, say)
            raise
        found = _found(subject, trials, end, time.perf_counter() - started)
        _write(found, out)
    return found


class _End(NamedTuple):
    """What a search ends with: settings, what they win on unseen rows, and that in words."""

    settings: Mapping[str, Any]
    won: Won | None
    verdict: str


def _checked(subject: Subject, best: TrialRecord, say: Say) -> _End:
    """The best settings; the defaults where these do better on unseen rows, or other seeds diverge."""
    if best.number == 1:
        return _End({}, None, verdict(None))
    try:
        won = estimate(subject, best.settings, say=say)
    except ExportError as error:
        reason = " ".join(str(error).split())
        about = f"tuning won nothing: the best settings cannot be trained with other seeds ({reason})"
        return _End({}, None, about)
    return _End({} if won.gain.delta <= 0 else best.settings, won, verdict(won))


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    try:
        with locked(folder, wait=False):
            yield
    except BlockingIOError:
        raise ExportError(
            f"a search must be run by one process at a time (got another one in {folder}); wait for that one"
        ) from None


def _found(subject: Subject, trials: Sequence[TrialRecord], end: _End, seconds: float) -> Found:
    """The search with what it ends with."""
    best = ranked(trials, subject.metric)[0]
    space = subject.space
    given = {name: value for name, value in space.training.given.items() if name not in NOT_SETTINGS}
    return Found(
        model=space.model,
        source=subject.log.source,
        fixed=msgspec.to_builtins({**space.hyperparameters, **given}),
        metric=subject.metric,
        trials=tuple(trials),
        best=best.number,
        settings=dict(end.settings),
        won=end.won,
        seconds=seconds,
        verdict=end.verdict,
    )


def _write_interrupted(subject: Subject, study: Study, out: Path, seconds: float, say: Say) -> None:
    """What was found until Ctrl-C, without its check."""
    trials = study.done()
    best = next(iter(ranked(trials, subject.metric)), None)
    if best is None:
        say("interrupted before a trial ended; the same command begins again")
        return
    about = "the search was interrupted, and its best is not checked: the same command goes on"
    _write(_found(subject, trials, _End(best.settings, None, about), seconds), out)
    say(f"interrupted after {len(trials)} trials; the best so far is in {out / TOML}")
    say("the same command goes on with the search")


def _write(found: Found, out: Path) -> None:
    """The three files, each whole or as it was."""
    toml = as_toml(found.model, {**found.fixed, **found.settings}, _comments(found))
    texts = {TOML: toml, JSON: encode_json(found).decode(), PAGE: tune_page(found, toml)}
    write_texts(out, texts)


def _comments(found: Found) -> list[str]:
    first, best = found.trials[0], found.trials[found.best - 1]
    lines = [f"{found.model} on {found.source}, {len(found.trials)} trials of `python -m export tune`."]
    if found.best != 1:
        lines.append(
            f"Validation {NAMES[found.metric]} {best.score:.5f}, that of the defaults {first.score:.5f}."
        )
    lines.append(f"{found.verdict[0].upper()}{found.verdict[1:]}.")
    if found.won is not None and not found.settings:
        lines.append("On those rows the best trial is worse than the defaults, so these are the defaults.")
    return lines
