"""Trains every model of a log, and makes each smaller in rounds: each one's first trial, then its second.

So a run that ends early has tried all models alike. What is done is kept, a JSON a trial, and another run
goes on with it.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.budgets.records import Budget, Failed
from export.budgets.kept import forget_other_models, keep, kept_trials, trials_folder
from export.budgets.plan import BudgetPlan
from export.budgets.records import Limits, Trial
from export.budgets.search import limits_of, next_trial, opened
from export.budgets.students import Lessons
from export.budgets.subject import Subject
from export.budgets.tables import trial_line
from export.compare.contender import TRACEBACK, Contender
from export.data.progress import duration
from export.errors import ExportError
from export.stages.work import Say, Work, silent
from export.trials import Budget as Effort
from service.bundle.errors import BundleError

KEY = "trained.key"


@dataclass(frozen=True)
class Tried:
    """One model: its work folder, where its trials are, and those that ended."""

    model: str
    work: Work
    folder: Path
    trials: Sequence[Trial]


@dataclass(frozen=True)
class Zoo:
    """The contenders of a log, and what is done to each."""

    contenders: Sequence[Contender]
    trials: int
    students: tuple[str, ...]
    candidates: int
    budgets: Sequence[Budget]
    lessons: Lessons
    plan: Callable[..., BudgetPlan] = BudgetPlan

    def run(self, effort: Effort, say: Say) -> tuple[list[Tried], list[Failed], bool]:
        """What was tried of each model, which failed, and whether all was done in the time."""
        started, taken = time.perf_counter(), list[float]()
        works: dict[str, Work] = {}
        failed: list[Failed] = []
        steps = len(self.contenders) * (1 + self.trials)
        for number, step in enumerate(self._steps(works, failed, say), start=1):
            if effort.is_used_up(taken, time.perf_counter() - started):
                return self._tried(works), failed, False
            before = time.perf_counter()
            line = step()
            taken.append(time.perf_counter() - before)
            if line:
                left = Effort(steps - number + len(taken), effort.seconds).left(
                    taken, time.perf_counter() - started
                )
                say(f"{line}; about {duration(left)} left")
            else:
                taken.pop()  # kept from an earlier run
        return self._tried(works), failed, True

    def _steps(self, works: dict[str, Work], failed: list[Failed], say: Say) -> Iterator[Callable[[], str]]:
        """Each does one thing and says what came of it; nothing where it was done before."""
        for contender in self.contenders:
            yield partial(self._train, contender, works, failed)
        for number in range(1, self.trials + 1):
            for model in [*works]:
                yield partial(self._try, model, works, failed, number)

    def _train(self, contender: Contender, works: dict[str, Work], failed: list[Failed]) -> str:
        work, key = contender.work, contender.work.folder / KEY
        if key.exists() and key.read_text() == contender.key and work.has("train.json"):
            works[contender.model] = work
            return ""
        try:
            contender.train(silent)
        except (ExportError, BundleError) as error:
            failed.append(Failed(model=contender.model, reason=" ".join(str(error).split())))
        except Exception as error:  # of any kind: the other models go on
            reason = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
            failed.append(Failed(model=contender.model, reason=reason))
            work.claim()
            (work.folder / TRACEBACK).write_text(traceback.format_exc(), encoding="utf-8")
        else:
            key.write_text(contender.key)
            works[contender.model] = work
            return f"{contender.model}: trained"
        return f"{contender.model}: failed: {failed[-1].reason}"

    def _try(self, model: str, works: dict[str, Work], failed: list[Failed], number: int) -> str:
        """A trial; a model around which there can be no search is tried no more."""
        work = works[model]
        plan, subject = self._plan(work, number), Subject.of(work)
        folder = self._folder(subject, plan)
        done = kept_trials(folder)
        if len(done) >= number:
            return ""
        try:
            workshop = opened(subject, plan, folder, self.lessons if self.students else None, say=silent)
        except ExportError as error:
            failed.append(Failed(model=model, reason=" ".join(str(error).split())))
            del works[model]
            return f"{model}: failed: {failed[-1].reason}"
        trial = next_trial(workshop, folder, done, limits_of(plan))
        keep(folder, [*done, trial])
        return f"{model}, {trial_line(trial, None, Limits(), self.trials)}"

    def _plan(self, work: Work, number: int) -> BudgetPlan:
        """Each of a model's trials is drawn for another budget, in turns."""
        budget = self.budgets[number % len(self.budgets)]
        return self.plan(
            work=work.folder,
            out=work.folder,
            at_batch=self.candidates,
            budget_us=budget.microseconds,
            budget_bytes=budget.bytes,
            students=self.students or ("none",),
        )

    def _folder(self, subject: Subject, plan: BudgetPlan) -> Path:
        folder = trials_folder(subject, plan)
        folder.mkdir(parents=True, exist_ok=True)
        forget_other_models(folder)
        return folder

    def _tried(self, works: Mapping[str, Work]) -> list[Tried]:
        found = []
        for model, work in works.items():
            subject = Subject.of(work)
            folder = self._folder(subject, self._plan(work, 1))
            found.append(Tried(model, work, folder, kept_trials(folder)))
        return found
