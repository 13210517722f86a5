"""The options of a search for a budget, with their defaults. It runs nothing and imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from export.compress.choice import PruneChoice
from export.errors import ExportError
from export.knobs import AT_LEAST_ONE, NOT_NEGATIVE, POSITIVE, check, described, knob
from export.stages.plan import GraphPlan
from export.trials import Budget

TRIALS = 24


@dataclass(frozen=True, kw_only=True)
class BudgetPlan:
    """What a bundle may cost, and how long to search for it.

    `pruning` is the schedule of each trial; its recipe is what the search varies.
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
        "trials in all, with those of an interrupted search; the first have the presets",
        AT_LEAST_ONE,
        otherwise=f"{TRIALS}, or with --minutes as many as they allow",
    )
    minutes: float | None = knob(None, "how long the search may take", POSITIVE, otherwise="until --trials")
    seed: int = knob(0, "of what the search draws", NOT_NEGATIVE)
    pruning: PruneChoice = field(default_factory=lambda: PruneChoice(dense_twin="skip"))
    graphs: GraphPlan = field(default_factory=GraphPlan)

    def __post_init__(self) -> None:
        check(self)
        if self.budget_us is None and self.budget_bytes is None and self.max_auc_loss is None:
            raise ExportError(
                "'--budget-us', '--budget-bytes' or '--max-auc-loss' must be given (got none of them); "
                "say what a bundle may cost"
            )

    @property
    def effort(self) -> Budget:
        """When the search ends."""
        return Budget.of(self.trials, self.minutes, usual=TRIALS)
