"""The options of a search, with their defaults. It runs nothing and imports neither torch nor Optuna."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from export.knobs import AT_LEAST_ONE, POSITIVE, check, described, knob
from export.stages.plan import LogPlan, Plan
from export.train.choices import EmbeddingChoice, TrainChoice
from export.trials import Budget

TRIALS = 30

# Trials of a short search, by the training rows up to which it has so many: small logs take seconds a trial.
SHORT_SEARCH = {100_000: 20, 1_000_000: 12}
FEWEST_TRIALS = 8


@dataclass(frozen=True, kw_only=True)
class TunePlan:
    """Everything that a search depends on.

    log   which log, and how it is read; None: the one that `work` holds
    What hyperparameters, embedding and training say is fixed, and no part of the search.
    """

    out: Path = field(
        metadata=described("where to write settings.toml, tune.json and tune.html", unit="FOLDER")
    )
    work: Path = field(
        metadata=described(
            "a work folder with an encoded log, or where to make one; searches are kept in it",
            unit="FOLDER",
            otherwise=".work/NAME beside --out",
        )
    )
    log: LogPlan | None = None
    model: str = Plan.model
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    embedding: EmbeddingChoice = field(default_factory=EmbeddingChoice)
    training: TrainChoice = field(default_factory=TrainChoice)
    trials: int | None = knob(
        None,
        "trials in all, with those of an interrupted search; the first has the defaults",
        AT_LEAST_ONE,
        otherwise=f"{TRIALS}, or with --minutes as many as they allow",
    )
    minutes: float | None = knob(
        None, "how long this command may take, its last check too", POSITIVE, otherwise="until --trials"
    )

    def __post_init__(self) -> None:
        check(self)

    @property
    def budget(self) -> Budget:
        """When the search ends."""
        return Budget.of(self.trials, self.minutes, usual=TRIALS)


def short_search(rows: int) -> int:
    """The trials before a run with the preset `accurate`, for a training part of this many rows."""
    return next((trials for most, trials in SHORT_SEARCH.items() if rows <= most), FEWEST_TRIALS)
