"""The options of a search for a budget, with their defaults. It runs nothing and imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from export.compress.choice import PruneChoice
from export.errors import ExportError
from export.knobs import AT_LEAST_ONE, NOT_NEGATIVE, POSITIVE, check, described, knob
from export.stages.plan import GraphPlan
from export.train.choices import TrainChoice
from export.trials import Budget

TRIALS = 24
SAME, NONE = "same", "none"
"""A student of the model's own kind, and no student."""


@dataclass(frozen=True, kw_only=True)
class BudgetPlan:
    """What a bundle may cost, and how long to search for it.

    `pruning` is the schedule of each trial; its recipe is what the search varies. `teaching` has the numbers
    of distillation that were given.
    """

    out: Path = field(
        metadata=described("where to write compress.json, compress.html and the bundle", unit="FOLDER")
    )
    work: Path = field(
        metadata=described("a work folder with a trained model; trials are kept in it", unit="FOLDER")
    )
    name: str | None = knob(
        None, "the bundle's name, which answers carry", unit="TEXT", otherwise="the folder's"
    )
    budget_us: float | None = knob(
        None, "microseconds of one core that a candidate may take, on this machine", POSITIVE, "US"
    )
    at_batch: int = knob(100, "candidates of the request that is timed", AT_LEAST_ONE, "N")
    budget_bytes: int | None = knob(None, "bytes that the graph may have", AT_LEAST_ONE, "BYTES")
    max_auc_loss: float | None = knob(
        None, "AUC that may be lost to the dense graph on the validation part", NOT_NEGATIVE, "X"
    )
    trials: int | None = knob(
        None,
        "trials in all, with those of an interrupted search; the first have the presets, the next a student "
        "of each kind",
        AT_LEAST_ONE,
        otherwise=f"{TRIALS}, or with --minutes as many as they allow",
    )
    minutes: float | None = knob(None, "how long the search may take", POSITIVE, otherwise="until --trials")
    seed: int = knob(0, "of what the search draws", NOT_NEGATIVE)
    students: tuple[str, ...] = knob(
        (SAME, "dnn", "fwfm", "lr"),
        f"models that the trained one teaches in some trials: {SAME}, a narrower one of its kind; names, of "
        f"which the cheaper models; or {NONE}",
        unit="NAME,..",
    )
    pruning: PruneChoice = field(default_factory=PruneChoice)
    graphs: GraphPlan = field(default_factory=GraphPlan)
    teaching: TrainChoice = field(default_factory=TrainChoice)

    def __post_init__(self) -> None:
        check(self)
        if NONE in self.students:
            if len(self.students) > 1:
                raise ExportError(
                    f"'students' must be {NONE} alone, or names (got {','.join(self.students)}); leave out "
                    "one of the two"
                )
            object.__setattr__(self, "students", ())
            for name, value in self.teaching.given.items():
                raise ExportError(
                    f"'{name}' must be left out without students (got {value!r}); leave out --students {NONE}"
                )
        if self.budget_us is None and self.budget_bytes is None and self.max_auc_loss is None:
            raise ExportError(
                "'--budget-us', '--budget-bytes' or '--max-auc-loss' must be given (got none of them); "
                "say what a bundle may cost"
            )

    @property
    def effort(self) -> Budget:
        """When the search ends."""
        return Budget.of(self.trials, self.minutes, usual=TRIALS)
