"""What a person chooses of a pruning. It imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from export.compress.config import PRUNED, PruneConfig
from export.compress.fitting import fitting_preset, rule_in_words
from export.compress.recipes import RECIPES, UNIT_PARTS, Recipe, find_recipe
from export.knobs import POSITIVE, SHARE_BELOW_ONE, OneOf, knob
from export.train.fitting import PAPERS_LEARNING_RATE


@dataclass(frozen=True, kw_only=True)
class PruneChoice(PruneConfig):
    """By which recipe to prune, by which schedule, and what the pruned model has to match.

    The step size is the paper's even on a small log: few steps are left, and the weights that survive have
    far to go (docs/decisions/training-defaults.md).
    """

    preset: str | None = knob(
        None,
        "shares to prune of DNN weights, field pairs, embeddings: high-performance 90/90/40, "
        "low-memory 90/90/90, low-latency 99/95/40 %, narrow the same and 75 % of the DNN's neurons, none; "
        "accurate (of run): none, after a short search of better settings",
        OneOf(tuple(RECIPES)),
        "NAME",  # all of them would not fit into a line of the help
        otherwise=rule_in_words(),
    )
    neurons: float | None = knob(
        None,
        "share of the hidden layers' neurons to prune whole, beside what the preset prunes",
        SHARE_BELOW_ONE,
        otherwise="the preset's",
    )
    interactions: float | None = knob(
        None,
        "share of what a model has beside its perceptron to prune whole: pairs of products, of the CIN, rows "
        "of cross layers, numbers of attention heads",
        SHARE_BELOW_ONE,
        otherwise="the preset's",
    )
    dimensions: float | None = knob(
        None,
        "share of the embeddings' dimensions to prune whole, the same ones of all fields",
        SHARE_BELOW_ONE,
        otherwise="the preset's",
    )
    prune_learning_rate: float = knob(
        PAPERS_LEARNING_RATE, "step size of Adam while pruning", POSITIVE, used_by=PRUNED
    )
    dense_twin: Literal["train", "skip"] = knob(
        "train",
        "train the dense model on as long as the pruned one, at that step size, and let the better one be "
        "what pruning is compared with; or skip that, which saves half of the time",
        used_by=PRUNED,
    )

    @property
    def may_prune(self) -> bool:
        """Whether anything is pruned; without a preset the log decides."""
        return self.preset is None or self.recipe(0).prunes

    @property
    def searches(self) -> bool:
        """Whether a run looks for better settings of training first."""
        return self.preset is not None and find_recipe(self.preset).searches

    def recipe(self, rows: int, *, shrinks: bool = True) -> Recipe:
        """The preset's, with the whole parts chosen.

        Without a preset it is that which fits so many training rows, and whether pruning shrinks the model.
        """
        recipe = find_recipe(self.preset or fitting_preset(rows, shrinks=shrinks))
        chosen = {part: getattr(self, part) for part in UNIT_PARTS}
        return recipe.with_units(**{part: share for part, share in chosen.items() if share is not None})
