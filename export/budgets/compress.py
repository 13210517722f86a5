"""The command compress: a trained model -> a search -> compress.json, compress.html and the best bundle."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from export.budgets.kept import dense_graph, forget_other_models, kept_trials, trial_folder, trials_folder
from export.budgets.page import search_page
from export.budgets.plan import BudgetPlan
from export.budgets.records import Reference, Searched, Trial, best_of, front_of
from export.budgets.search import dense_microseconds, limits_of, opened, search
from export.budgets.students import Lessons
from export.budgets.subject import Subject
from export.budgets.tables import front_table, verdict
from export.errors import ExportError
from export.report.files import write_texts
from export.report.machine import machine
from export.report.summary import summary
from export.stages.calibrate import calibrate_as_planned
from export.stages.calibration_segments import check_segment_field
from export.stages.fit_schema import few_warnings
from export.stages.package import check_out, package
from export.stages.records import Calibrated
from export.stages.work import Say, Work
from service.bundle.json_files import encode_json

JSON, PAGE, BUNDLE = "compress.json", "compress.html", "bundle"


def compress(plan: BudgetPlan, *, lessons: Lessons | None = None, say: Say = print) -> Searched:
    """Searches, and writes OUT. Raises ExportError where no trial keeps the limits.

    `lessons` is what students need, `export.teach.lesson.Lesson`; without it there are none. Ctrl-C writes
    what was found until then, without a bundle; the same command goes on.
    """
    name = plan.name or plan.out.resolve().name
    check_out(plan.out / BUNDLE, name)
    with Work(plan.work).held() as work:
        subject = Subject.of(work)
        _check_sampling_rate(work, plan)
        check_segment_field(plan.graphs.calibrate_by, subject.log.schema.fields)
        for warning in few_warnings(subject.summary):
            say(f"warning: {warning}")
        folder = trials_folder(subject, plan)
        folder.mkdir(parents=True, exist_ok=True)
        forget_other_models(folder)
        started = time.perf_counter()
        try:
            trials = search(opened(subject, plan, folder, lessons, say=say), folder, say=say)
        except KeyboardInterrupt:
            _write_interrupted(subject, plan, folder, started, say)
            raise
        if not any(one.form for one in trials):
            raise ExportError(f"at least one trial must come through (got: {trials[0].reason})")
        found = _found(subject, plan, folder, trials, started)
        _write(found, plan.out)
        say("\n".join(["", *front_table(found), "", verdict(found)]))
        say(f"wrote {JSON} and {PAGE} in {plan.out}; the trials are in {folder}")
        if found.best is None:
            raise ExportError(f"{verdict(found)}; allow more, or search on with more --trials")
        say(f"packaging trial {found.best}")
        _package(plan, Work(trial_folder(folder, found.best)), name, found.trials[found.best - 1], say)
    return found


def _check_sampling_rate(work: Work, plan: BudgetPlan) -> None:
    """Raises ExportError where the run calibrated for another log than the bundle would be."""
    if not work.has("calibrate.json"):
        return
    rate = work.read_record("calibrate", Calibrated).sampling_rate
    if rate != plan.graphs.sampling_rate:
        raise ExportError(
            f"'sampling_rate' must be {rate:g}, as in the run that trained the model (got "
            f"{plan.graphs.sampling_rate:g}); give --sampling-rate {rate:g}, or calibrate that run anew"
        )


def _package(plan: BudgetPlan, work: Work, name: str, best: Trial, say: Say) -> None:
    calibrate_as_planned(work, plan.graphs, say=say)
    bundle = package(work, plan.out / BUNDLE, name=name, say=say)
    say(summary(bundle))
    serving = bundle.manifest.serving_variant
    if best.form is not None and serving != best.form.variant:
        say(
            f"warning: the bundle serves {serving}, where trial {best.number} had {best.form.variant}: their "
            "times differ little, and are taken anew for each bundle"
        )


def _found(
    subject: Subject, plan: BudgetPlan, folder: Path, trials: Sequence[Trial], started: float
) -> Searched:
    limits, first = limits_of(plan), next(one.form for one in trials if one.form is not None)
    microseconds = dense_microseconds(trials)
    assert microseconds is not None
    best = best_of(trials, limits)
    return Searched(
        model=subject.trained.model,
        source=subject.log.source,
        machine=machine(),
        candidates=plan.at_batch,
        limits=limits,
        dense=Reference(
            auc=first.auc - first.validation.auc_delta,
            bytes=dense_graph(folder).stat().st_size,
            microseconds=microseconds,
        ),
        trials=tuple(trials),
        front=front_of(trials),
        best=None if best is None else best.number,
        seconds=time.perf_counter() - started,
    )


def _write_interrupted(subject: Subject, plan: BudgetPlan, folder: Path, started: float, say: Say) -> None:
    trials = kept_trials(folder)
    if not any(one.form for one in trials):
        say("interrupted before a trial ended; the same command begins again")
        return
    _write(_found(subject, plan, folder, trials, started), plan.out)
    say(f"interrupted after {len(trials)} trials, which are in {plan.out / PAGE}; the same command goes on")


def _write(found: Searched, out: Path) -> None:
    """Both files, each whole or as it was."""
    write_texts(out, {JSON: encode_json(found).decode(), PAGE: search_page(found)})
