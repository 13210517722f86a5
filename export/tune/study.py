"""A search that outlives its process: Optuna's study in a journal file, from which the next point is drawn.

What a trial draws depends on the seed and on the trials that have ended, not on the process: a search that is
killed and resumed has the trials of one that was not. It knows axes and scores, no model.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

import msgspec
import optuna
from optuna.pruners import MedianPruner
from optuna.samplers import TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState

from export.train.config import Metric
from export.trials import Value, drawn, seed_of
from export.tune.records import TrialRecord
from export.tune.space import Space

JOURNAL = "journal.jsonl"
NAME = "settings"

# Trials before the sampler models what went well; the first has the defaults, the others are drawn at random
# (docs/decisions/tuning.md).
RANDOM_TRIALS = 3
# Trials that end before others may be ended early for being worse than their median.
WHOLE_TRIALS = 4

_RECORD = "record"
_STATES: dict[str, TrialState] = {
    "finished": TrialState.COMPLETE, "ended early": TrialState.PRUNED, "failed": TrialState.PRUNED,
}  # fmt: skip


class Study:
    """The trials of one search in one folder. Only one process at a time may hold the folder."""

    def __init__(
        self,
        folder: Path,
        space: Space,
        *,
        seed: int,
        metric: Metric,
        warm_up: int,
        random_trials: int = RANDOM_TRIALS,
    ) -> None:
        """Opens the search, or begins one; `warm_up` evaluations of each trial come before any early end."""
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.space, self.seed, self.random_trials = space, seed, random_trials
        self._study = optuna.create_study(
            storage=JournalStorage(JournalFileBackend(str(_mended(folder / JOURNAL)))),
            study_name=NAME,
            direction="maximize" if metric == "auc" else "minimize",
            pruner=MedianPruner(n_startup_trials=WHOLE_TRIALS, n_warmup_steps=warm_up),
            load_if_exists=True,
        )
        for trial in self._trials(TrialState.RUNNING):  # its process is gone
            self._study.tell(trial.number, state=TrialState.FAIL)

    def done(self) -> tuple[TrialRecord, ...]:
        """The trials that have ended, in order."""
        ended = self._trials(TrialState.COMPLETE, TrialState.PRUNED)
        return tuple(msgspec.convert(trial.user_attrs[_RECORD], TrialRecord) for trial in ended)

    def ask(self) -> Asked:
        """The next trial: the defaults first, then what the sampler draws."""
        number = 1 + len(self._trials(TrialState.COMPLETE, TrialState.PRUNED))
        seed = seed_of(self.seed, number)
        self._study.sampler = TPESampler(seed=seed, n_startup_trials=self.random_trials)
        if number == 1 and not self._trials(TrialState.WAITING):
            self._study.enqueue_trial(self.space.defaults())
        trial = self._study.ask()
        return Asked(number, trial, drawn(trial, self.space.axes))

    def tell(self, asked: Asked, record: TrialRecord) -> None:
        """Ends a trial, whose record is kept."""
        asked.trial.set_user_attr(_RECORD, msgspec.to_builtins(record))
        state = _STATES[record.state]
        values = record.score if state == TrialState.COMPLETE else None
        self._study.tell(asked.trial, values, state=state)

    def _trials(self, *states: TrialState) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False, states=states)


class Asked:
    """A trial that runs: its number from 1, and its point in the space."""

    def __init__(self, number: int, trial: Trial, values: dict[str, Value]) -> None:
        self.number, self.trial, self.values = number, trial, values

    def is_hopeless(self, evaluation: int, score: float) -> bool:
        """Whether the best score so far is worse than the median of earlier trials at this evaluation."""
        self.trial.report(score, evaluation)
        return self.trial.should_prune()


def _mended(journal: Path) -> Path:
    """A journal without what a killed process left: a lock, and a line that was not written to its end.

    Optuna waits half a minute for such a lock, and cannot read a journal that goes on after such a line.
    """
    journal.with_name(f"{journal.name}.lock").unlink(missing_ok=True)
    with contextlib.suppress(FileNotFoundError), journal.open("rb+") as file:
        whole = file.read().rfind(b"\n") + 1
        file.truncate(whole)
    return journal
