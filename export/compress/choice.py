"""What a person chooses of a pruning. It imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

from export.compress.config import PruneConfig
from export.compress.recipes import Recipe, find_recipe
from export.train.choices import PAPERS_LEARNING_RATE


@dataclass(frozen=True)
class PruneChoice:
    """By which recipe to prune, and how long, in epochs; training steps from one pruning to the next.

    `neurons` is the share of neurons that go whole, where it is not to be the preset's own.

    Few steps are left, and what survives has far to go: on 20,000 rows of Criteo, pruning at the small steps
    of that log's training lost 0.016 AUC, at the paper's nothing.
    """

    preset: str = "low-latency"
    neurons: float | None = None
    prune_epochs: float = PruneConfig.pruning_epochs
    finetune_epochs: float = PruneConfig.finetune_epochs
    prune_every: int = PruneConfig.every
    learning_rate: float = PAPERS_LEARNING_RATE

    def recipe(self) -> Recipe:
        """The preset's, with the neurons chosen. Raises ExportError for a preset or a share that is none."""
        recipe = find_recipe(self.preset)
        if self.neurons is None or self.neurons == recipe.neurons:
            return recipe
        return recipe.with_neurons(self.neurons)
