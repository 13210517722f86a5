"""Runs trials until their number or the time is used up; each is kept, and another search finds it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from export.budgets.kept import keep, kept_trials, trial_folder
from export.budgets.plan import BudgetPlan
from export.budgets.records import Limits, Trial, best_of
from export.budgets.space import Space
from export.budgets.study import next_point
from export.budgets.tables import trial_line
from export.budgets.trial import Subject, attempt
from export.errors import ExportError
from export.stages.work import Say, Work


def limits_of(plan: BudgetPlan) -> Limits:
    return Limits(microseconds=plan.budget_us, bytes=plan.budget_bytes, auc_loss=plan.max_auc_loss)


def search(subject: Subject, space: Space, plan: BudgetPlan, folder: Path, *, say: Say) -> list[Trial]:
    """The trials of a search, those of earlier ones first.

    Raises ExportError where the dense model itself cannot be exported.
    """
    started = time.perf_counter()
    done = kept_trials(folder)
    if done:
        say(f"trials kept from an earlier search of the same model: {len(done)}")
    limits = limits_of(plan)
    effort = plan.effort
    with effort.bar(len(done)) as bar:
        while not effort.is_used_up([one.seconds for one in done], time.perf_counter() - started):
            trial = _next(subject, space, plan, folder, done)
            if trial.number == 1 and trial.form is None:
                raise ExportError(
                    f"the dense model must be exportable to search around it (got: {trial.reason})"
                )
            done.append(trial)
            keep(folder, done)
            bar.add(effort.step(trial.seconds))
            say(trial_line(trial, best_of(done, limits), limits, effort.trials))
    return done


def _next(subject: Subject, space: Space, plan: BudgetPlan, folder: Path, done: Sequence[Trial]) -> Trial:
    """The next trial; what cannot be pruned or exported is a failed one."""
    started = time.perf_counter()
    number = len(done) + 1
    name, kept = next_point(space, done, limits_of(plan), plan.seed)
    form, reason = None, ""
    try:
        form, dense = attempt(subject, plan, space.recipe(kept), trial_folder(folder, number))
        # Machines are faster at one time than at another: a share of the dense graph's time is what lasts.
        reference = dense_microseconds(done) or dense
        form = msgspec.structs.replace(form, microseconds=form.share * reference)
    except ExportError as error:
        reason = " ".join(str(error).split())
        Work(trial_folder(folder, number)).claim()
    seconds = time.perf_counter() - started
    return Trial(number=number, name=name, kept=kept, seconds=seconds, form=form, reason=reason)


def dense_microseconds(done: Sequence[Trial]) -> float | None:
    """Microseconds a candidate of the dense graph in the first trial."""
    first = done[0].form if done else None
    return None if first is None else first.microseconds / first.share
