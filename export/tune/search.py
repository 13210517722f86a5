"""Runs the trials of a search until their number or the time is used up; Ctrl-C keeps what is done."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from export.data.encoded import EncodedLog
from export.errors import ExportError
from export.stages.work import Say, hash_of
from export.train.result import Evaluation
from export.trials import Budget
from export.tune.fit import Subject, score
from export.tune.records import TrialRecord, ranked
from export.tune.study import Asked, Study
from export.tune.tables import trial_line
from export.tune.won import SEEDS
from service.bundle.schema_files import schema_to_files

FOLDER = "tune"

# What a search does with the same inputs changed when this number did: no search goes on from an older one.
VERSION = 1


class _Hopeless(Exception):
    """A trial that is worse than others were at the same evaluation."""


def study_folder(work: Path, subject: Subject) -> Path:
    """Where the search with these inputs is kept: another log, model, space or seed has another folder."""
    space = subject.space
    usual = replace(space.config({}), threads=None)
    inputs = (
        VERSION,
        _fingerprint(subject.log),
        space.model,
        space.hyperparameters,
        sorted(space.training.given.keys() - {"threads"}),
        usual,
        subject.embedding,
        space.axes,
    )
    key = hash_of(inputs)
    return work / FOLDER / f"{space.model}-{key[:12]}"


def _fingerprint(log: EncodedLog) -> str:
    """A hash of what a search reads of a log but for the ids of training, whose labels stand for them."""
    found = hashlib.sha256(log.source.encode())
    for name, content in sorted(schema_to_files(log.schema).items()):
        found.update(name.encode() + content)
    training, validation = log.parts["train"], log.parts["validation"]
    for array in (training.labels, validation.labels, validation.ids, training.taught):
        if array is not None:
            found.update(np.ascontiguousarray(array).data)
    return found.hexdigest()


def search(subject: Subject, study: Study, budget: Budget, *, say: Say) -> tuple[TrialRecord, ...]:
    """The trials of the search, those of earlier processes first.

    Raises ExportError where the defaults cannot be trained.
    """
    started = time.perf_counter()
    done = study.done()
    if done:
        say(f"{len(done)} trials are kept from an earlier search with the same inputs")
    _check_defaults(done)
    with budget.bar(len(done)) as bar:
        while not is_used_up(budget, done, _best(done, subject), time.perf_counter() - started):
            asked = study.ask()
            record = _attempt(subject, study, asked)
            study.tell(asked, record)
            done = (*done, record)
            bar.add(budget.step(record.seconds))
            say(trial_line(record, _best(done, subject), budget.trials))
            _check_defaults(done)
    return done


def is_used_up(budget: Budget, done: Sequence[TrialRecord], best: TrialRecord | None, elapsed: float) -> bool:
    """Whether no other trial fits in; time for the check of the best is set aside."""
    check = 0.0 if best is None else SEEDS * (done[0].seconds + best.seconds)
    return budget.is_used_up([one.seconds for one in done], elapsed, set_aside=check)


def _check_defaults(trials: Sequence[TrialRecord]) -> None:
    """Raises ExportError where the first trial, that of the defaults, failed."""
    if trials and trials[0].state == "failed":
        raise ExportError(f"the defaults must be trainable to search around them (got: {trials[0].reason})")


def _best(trials: Sequence[TrialRecord], subject: Subject) -> TrialRecord | None:
    return next(iter(ranked(trials, subject.metric)), None)


def _attempt(subject: Subject, study: Study, asked: Asked) -> TrialRecord:
    """Trains with the settings of a point; what cannot be built or diverges is a failed trial."""
    started = time.perf_counter()
    scores: list[float] = []
    settings: Mapping[str, Any] = {}
    found: dict[str, Any]
    try:
        settings = subject.space.settings(asked.values)
        config = subject.space.config(settings)

        def judge(evaluation: Evaluation) -> None:
            scores.append(score(evaluation, config))
            if asked.is_hopeless(len(scores), scores[-1]):
                raise _Hopeless

        result = subject.fit(settings, after_evaluation=judge).result
        best = result.best or result.history[-1]
        found = {"state": "finished", "score": score(best, config)}
    except _Hopeless:
        best_so_far = max(scores) if subject.metric == "auc" else min(scores)
        found = {"state": "ended early", "score": best_so_far}
    except ExportError as error:
        found = {"state": "failed", "score": None, "reason": " ".join(str(error).split())}
    return TrialRecord(
        number=asked.number,
        values=asked.values,
        settings=dict(settings),
        seconds=time.perf_counter() - started,
        evaluations=len(scores),
        **found,
    )
