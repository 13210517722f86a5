"""Every knob of a pruning, with its default, unit and limits. It knows nothing of torch."""

from __future__ import annotations

import math
from dataclasses import dataclass

from export.compress.schedule import RESIDUAL
from export.errors import ExportError


@dataclass(frozen=True)
class PruneConfig:
    """The three stretches of a pruning, in epochs (fractions allowed), and how often to prune in the second.

    warmup_epochs    trained dense before the first pruning; 0 for a model that is trained already
    pruning_epochs   while the rate grows; rare ids overfit from the second pass on, so keep it short
    finetune_epochs  with the masks held, until the end of the epoch that it ends in
    every            training steps from one pruning to the next (the paper's 10; fewer on a very small log)
    residual         the shape of the growing rate, see `export.compress.schedule`
    """

    warmup_epochs: float = 0.0
    pruning_epochs: float = 1.0
    finetune_epochs: float = 2.0
    every: int = 10
    residual: float = RESIDUAL

    def __post_init__(self) -> None:
        self._check("warmup_epochs", "0 or more", 0 <= self.warmup_epochs < math.inf)
        self._check("pruning_epochs", "above 0", 0 < self.pruning_epochs < math.inf)
        self._check("finetune_epochs", "above 0", 0 < self.finetune_epochs < math.inf)
        self._check("every", "at least 1", self.every >= 1)
        self._check("residual", "above 0 and below 1", 0 < self.residual < 1)

    def _check(self, name: str, expected: str, holds: bool) -> None:
        if not holds:
            raise ExportError(f"'{name}' must be {expected} (got {getattr(self, name)!r}); see PruneConfig")
