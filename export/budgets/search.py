"""Runs trials until their number or the time is used up; each is kept, and another search finds it."""

from __future__ import annotations

import time
import traceback
from collections.abc import Sequence
from pathlib import Path

import msgspec

from export.budgets.kept import TRACEBACK, keep, kept_trials, prepared_folder, trial_folder
from export.budgets.plan import BudgetPlan
from export.budgets.records import Limits, Trial, best_of
from export.budgets.space import space_of
from export.budgets.students import Lessons, Students, kinds_of
from export.budgets.study import next_point
from export.budgets.subject import Subject, prepared
from export.budgets.tables import trial_line
from export.budgets.trial import Workshop
from export.data.progress import duration
from export.errors import ExportError
from export.stages.work import Say, Work
from service.bundle.errors import BundleError


def limits_of(plan: BudgetPlan) -> Limits:
    return Limits(microseconds=plan.budget_us, bytes=plan.budget_bytes, auc_loss=plan.max_auc_loss)


def opened(
    subject: Subject, plan: BudgetPlan, folder: Path, lessons: Lessons | None, *, say: Say
) -> Workshop:
    """What the trials share, made in the folder unless it is there.

    Without `lessons` there are no students. Raises ExportError where the dense model cannot be exported.
    """
    students = None if lessons is None else Students(subject, plan, folder, lessons)
    kinds = kinds_of(subject, () if students is None else students.kinds())
    space = space_of(kinds)
    try:
        base = prepared(subject, plan, prepared_folder(folder), say=say)
    except ExportError as error:
        raise ExportError(
            f"the dense model must be exportable to search around it (got: {error}); serve another"
        ) from None
    return Workshop(subject, plan, space, base, students)


def search(workshop: Workshop, folder: Path, *, say: Say) -> list[Trial]:
    """The trials of a search, those of earlier ones first."""
    started = time.perf_counter()
    plan, done = workshop.plan, kept_trials(folder)
    if done:
        say(f"trials kept from an earlier search of the same model: {len(done)}")
    limits = limits_of(plan)
    effort = plan.effort
    with effort.bar(len(done)) as bar:
        while not effort.is_used_up([one.seconds for one in done], time.perf_counter() - started):
            trial = next_trial(workshop, folder, done, limits)
            done.append(trial)
            keep(folder, done)
            bar.add(effort.step(trial.seconds))
            left = effort.left([one.seconds for one in done], time.perf_counter() - started)
            line = trial_line(trial, best_of(done, limits), limits, effort.trials)
            say(f"{line}; about {duration(left)} left")
    return done


def next_trial(workshop: Workshop, folder: Path, done: Sequence[Trial], limits: Limits) -> Trial:
    """The next trial; one that fails says why, and the others go on.

    Raises OSError and MemoryError: a full disk would fail all that follow, and the record would stay.
    """
    started = time.perf_counter()
    number = len(done) + 1
    name, values = next_point(workshop.space, done, limits, workshop.plan.seed)
    own, form, reason = trial_folder(folder, number), None, ""
    try:
        form, dense = workshop.attempt(values, own)
        # Machines are faster at one time than at another: a share of the dense graph's time is what lasts.
        reference = dense_microseconds(done) or dense
        form = msgspec.structs.replace(form, microseconds=form.share * reference)
    except (ExportError, BundleError) as error:
        reason = " ".join(str(error).split())
        Work(own).claim()
    except (OSError, MemoryError):  # the machine's, not the trial's: it is tried again when there is room
        raise
    except Exception as error:  # of any other kind: the search outlives a defect
        reason = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        Work(own).claim()
        (own / TRACEBACK).write_text(traceback.format_exc(), encoding="utf-8")
    seconds = time.perf_counter() - started
    return Trial(number=number, name=name, values=values, seconds=seconds, form=form, reason=reason)


def dense_microseconds(done: Sequence[Trial]) -> float | None:
    """Microseconds a candidate of the dense graph in the first trial that has a form."""
    forms = (one.form for one in done if one.form is not None)
    return next((form.microseconds / form.share for form in forms), None)
