"""Every knob of a pruning's schedule, with its default, unit and limits. It knows nothing of torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from export.compress.schedule import RESIDUAL
from export.knobs import AT_LEAST_ONE, INNER_SHARE, NOT_NEGATIVE, POSITIVE, Knob, check


@dataclass(frozen=True)
class PruneConfig:
    """The three stretches of a pruning, in epochs (fractions allowed), and how often to prune in the second.

    A field without a Knob is set by code alone.
    """

    # Rare ids overfit from the second pass on, so the growth is short.
    prune_epochs: Annotated[
        float, POSITIVE, Knob("passes over the training part while the shares grow", "N")
    ] = 1.0
    # Until the end of the epoch that it ends in.
    finetune_epochs: Annotated[float, POSITIVE, Knob("passes after that, with the zeros held", "N")] = 2.0
    # The paper's 10; fewer on a very small log, see `pruning_interval`.
    prune_every: Annotated[
        int, AT_LEAST_ONE, Knob("training steps from one pruning to the next", "STEPS")
    ] = 10
    warmup_epochs: Annotated[float, NOT_NEGATIVE] = 0.0  # trained dense before; 0 for a trained model
    residual: Annotated[float, INNER_SHARE] = RESIDUAL  # shape of the growing rate, see `sparse_rate`

    def __post_init__(self) -> None:
        check(self)
