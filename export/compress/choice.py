"""What a person chooses of a pruning. It imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from export.compress.config import PruneConfig
from export.compress.recipes import RECIPES, Recipe, find_recipe
from export.knobs import POSITIVE, SHARE_BELOW_ONE, Knob, OneOf
from export.train.config import PAPERS_LEARNING_RATE


@dataclass(frozen=True, kw_only=True)
class PruneChoice(PruneConfig):
    """By which recipe to prune, and by which schedule.

    Few steps are left, and what survives has far to go: on 20,000 rows of Criteo, pruning at the small steps
    of that log's training lost 0.016 AUC, at the paper's nothing.
    """

    preset: Annotated[
        str,
        OneOf(tuple(RECIPES)),
        Knob(
            "shares to prune of DNN weights, field pairs, embeddings: high-performance 90/90/40, "
            "low-memory 90/90/90, low-latency 99/95/40 %, narrow the same and 75 % of the DNN's neurons, none"
        ),
    ] = "low-latency"
    neurons: Annotated[
        float | None,
        SHARE_BELOW_ONE,
        Knob(
            "share of the hidden layers' neurons to prune whole, beside what the preset prunes",
            otherwise="the preset's",
        ),
    ] = None
    prune_learning_rate: Annotated[float, POSITIVE, Knob("step size of Adam while pruning")] = (
        PAPERS_LEARNING_RATE
    )

    def recipe(self) -> Recipe:
        """The preset's, with the neurons chosen."""
        recipe = find_recipe(self.preset)
        if self.neurons is None or self.neurons == recipe.neurons:
            return recipe
        return recipe.with_neurons(self.neurons)
