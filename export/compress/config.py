"""Every knob of a pruning's schedule, with its default, unit and limits. It knows nothing of torch."""

from __future__ import annotations

from dataclasses import dataclass

from export.compress.schedule import RESIDUAL
from export.knobs import AT_LEAST_ONE, INNER_SHARE, NOT_NEGATIVE, POSITIVE, UsedBy, check, knob

PRUNED = UsedBy(("may_prune",), ("True",), unless="where nothing is pruned, as by the preset none")
"""What concerns a pruning has no effect without one."""


@dataclass(frozen=True)
class PruneConfig:
    """The three stretches of a pruning, in epochs (fractions allowed), and how often to prune in the second.

    A knob without a meaning is set by code alone.
    """

    # Rare ids overfit from the second pass on, so the growth is short.
    prune_epochs: float = knob(
        1.0, "passes over the training part while the shares grow", POSITIVE, "N", used_by=PRUNED
    )
    # Until the end of the epoch that it ends in.
    finetune_epochs: float = knob(
        2.0, "passes after that, with the zeros held", POSITIVE, "N", used_by=PRUNED
    )
    # The paper's 10; fewer on a very small log, see `pruning_interval`.
    prune_every: int = knob(
        10, "training steps from one pruning to the next", AT_LEAST_ONE, "STEPS", used_by=PRUNED
    )
    # Trained dense before the first pruning; 0 for a model that is trained already.
    warmup_epochs: float = knob(0.0, None, NOT_NEGATIVE)
    # The shape of the growing rate, see `sparse_rate`.
    residual: float = knob(RESIDUAL, None, INNER_SHARE)

    def __post_init__(self) -> None:
        check(self)

    @property
    def may_prune(self) -> bool:
        """Whether there is a pruning that has this schedule, as far as it is known."""
        return True
