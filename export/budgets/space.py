"""What a search for a budget varies: of each part of a model, the share that is kept. It draws nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from export.compress.compact import can_lose
from export.compress.parts import parts_of
from export.compress.recipes import RECIPES, Recipe

# To prune a few per cent wins nothing, and changes the model all the same.
ALL_KEPT = 0.95
# The smallest share of each part that is tried: half of what the paper's and our presets keep, or less.
LEAST_KEPT: Mapping[str, float] = {
    "dnn": 0.003,
    "field_matrix": 0.02,
    "embedding": 0.05,
    "neurons": 0.03,
    "interactions": 0.02,
    "dimensions": 0.3,
}


@dataclass(frozen=True)
class Axis:
    """The share of a part that is kept, from `least` to 1, drawn evenly by its logarithm."""

    part: str
    least: float


@dataclass(frozen=True)
class Space:
    """The axes of one model: the parts that it has."""

    axes: tuple[Axis, ...]

    def recipe(self, kept: Mapping[str, float]) -> Recipe:
        """What prunes the rest of each part."""
        rates = {part: 1.0 - share for part, share in kept.items()}
        unpruned = Recipe("compress", dnn=0.0, field_matrix=0.0, embedding=0.0)
        return replace(unpruned, **rates)  # type: ignore[arg-type]  # the names are those of its rates

    def settled(self, drawn: Mapping[str, float]) -> dict[str, float]:
        """A point as it was drawn, with all of a part kept where hardly any of it would go."""
        return {part: 1.0 if share >= ALL_KEPT else share for part, share in drawn.items()}

    def starts(self) -> list[tuple[str, dict[str, float]]]:
        """The presets as points, in order and each once: no search ends with less than they reach."""
        points: dict[str, dict[str, float]] = {}
        for name, recipe in RECIPES.items():
            point = {axis.part: 1.0 - getattr(recipe, axis.part) for axis in self.axes}
            if point not in points.values():
                points[name] = point
        return [*points.items()]


def space_of(model: nn.Module, hyperparameters: Mapping[str, Any]) -> Space:
    """The parts of this model that can be pruned; none where it has no such part."""
    parts = [
        part
        for part in parts_of(model)
        if part != "dimensions" or can_lose(model, hyperparameters, part, LEAST_KEPT[part])
    ]
    return Space(tuple(Axis(part, LEAST_KEPT[part]) for part in parts))
