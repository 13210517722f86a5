"""Which parts of a recipe a model has, and the whole units of a part. It prunes nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import nn

from export.compress.dimensions import find_dimensions
from export.compress.interactions.kinds import find_interactions
from export.compress.perceptrons import find_neurons
from export.compress.recipes import PARTS, UNIT_PARTS, Recipe
from export.compress.targets import find_targets
from export.compress.whole_units import Units

_UNITS: Mapping[str, Callable[[nn.Module], list[Units]]] = {
    "neurons": find_neurons,
    "interactions": find_interactions,
    "dimensions": find_dimensions,
}


def find_units(model: nn.Module, recipe: Recipe) -> list[Units]:
    """The whole units that this recipe prunes of this model."""
    chosen = [part for part in UNIT_PARTS if getattr(recipe, part) > 0.0]
    return [units for part in chosen for units in units_of(model, part)]


def units_of(model: nn.Module, part: str) -> list[Units]:
    """The whole units of one part of this model."""
    return _UNITS[part](model)


def parts_of(model: nn.Module) -> tuple[str, ...]:
    """The parts that this model has, in their order."""
    found = {target.part for target in find_targets(model)}
    found |= {part for part in UNIT_PARTS if units_of(model, part)}
    return tuple(part for part in PARTS if part in found)
