"""What a search for a budget varies: who is pruned, the share of each part that is kept, and how it ends.

It draws nothing, and makes no model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, get_args

from torch import nn

from export.compress.compact import can_lose
from export.compress.parts import parts_of
from export.compress.recipes import PARTS, RECIPES, UNIT_PARTS, Recipe
from export.stages.plan import EmbeddingBits
from export.trials import Axis, Value, Values, point_on

# To prune a few per cent wins nothing, and changes the model all the same.
MOST_KEPT = 0.95
# The smallest share that is tried of a part that is pruned: half of what the paper's and our presets keep, or
# less.
LEAST_KEPT: Mapping[str, float] = {
    "dnn": 0.003,
    "field_matrix": 0.02,
    "embedding": 0.05,
    "neurons": 0.03,
    "interactions": 0.02,
    "dimensions": 0.3,
}

STUDENT, WIDTH, LAYERS, DIM, QUANTIZATION, ROW_BITS = (
    "student", "width_halvings", "layers", "dim_halvings", "quantization", "embedding_bits",
)  # fmt: skip
NO, YES = "no", "yes"
DRAWN: Final = "drawn"
"""The name of a point that is no start."""
ITSELF: Final = "itself"
"""No student: the trained model."""
STATIC, FLOAT, QAT = "static", "float", "qat"
"""How a trial ends: INT8 unless that is refused or slower; float32 whatever INT8 would be; as the first, but
trained on as INT8. An INT8 graph whose rows depend on their batch is none of them."""
ENDINGS: Mapping[str, tuple[str, ...]] = {
    QUANTIZATION: (STATIC, FLOAT, QAT),
    ROW_BITS: get_args(EmbeddingBits),
}
"""By axis, the choices of how a trial ends, the usual one first."""

MOST_WIDTH_HALVINGS: Final = 5
SMALLEST_DIM: Final = 2
# A narrower model of the same kind, and a perceptron alone, begin with a quarter of the neurons.
FIRST_HALVINGS: Final = 2


@dataclass(frozen=True)
class Kind:
    """What a trial prunes: the trained model, or a model that it teaches.

    name     ITSELF, or the model's
    parts    those that can be pruned
    layers   how many hidden layers there are to leave out
    dim      numbers in an embedding
    """

    name: str
    parts: tuple[str, ...]
    layers: int = 0
    dim: int = 0


@dataclass(frozen=True)
class Space:
    """The axes of one trained model; `axes` come in the order in which they are drawn."""

    kinds: tuple[Kind, ...]
    axes: tuple[Axis, ...]

    def recipe(self, values: Values) -> Recipe:
        """What prunes the rest of each part."""
        rates = {part: 1.0 - float(values[part]) for part in PARTS if part in values}
        unpruned = Recipe("compress", dnn=0.0, field_matrix=0.0, embedding=0.0)
        return replace(unpruned, **rates)  # type: ignore[arg-type]  # the names are those of its rates

    def starts(self) -> list[tuple[str, dict[str, Value]]]:
        """Points to begin with, each once: the presets, so that no search ends with less; then students."""
        found: dict[str, dict[str, Value]] = {}
        for name, recipe in RECIPES.items():
            given: dict[str, Value] = {}
            for part in self.kinds[0].parts:
                if (rate := getattr(recipe, part)) > 0.0:
                    given |= {prunes(part): YES, part: 1.0 - rate}
            self._add(found, name, given)
        for kind in self.kinds[1:]:
            halved = {WIDTH: FIRST_HALVINGS} if kind.layers else {}
            self._add(found, kind.name, {STUDENT: kind.name, **halved})
        for axis in self.axes:
            if axis.name in ENDINGS:
                for choice in axis.choices[1:]:
                    self._add(found, ending_text(axis.name, choice), {axis.name: choice})
        return [*found.items()]

    def _add(self, found: dict[str, dict[str, Value]], name: str, given: Values) -> None:
        """A point with these values, and on the other axes their defaults."""
        point = point_on(self.axes, lambda axis: given.get(axis.name, axis.default))
        if point not in found.values():
            found[name] = point


def prunes(part: str) -> str:
    """The axis that says whether anything of a part is pruned.

    It is apart from the share that is kept: of a share alone, nearly no draw would keep a part whole, and few
    models bear it that all of their parts are pruned.
    """
    return f"prunes_{part}"


def ending_text(name: str, choice: Value) -> str:
    """One choice of how a trial ends, as a word: `qat`, `4-bit-rows`."""
    return f"{choice}-bit-rows" if name == ROW_BITS else str(choice)


def losable_parts(model: nn.Module, hyperparameters: Mapping[str, Any]) -> tuple[str, ...]:
    """The parts of this model that can be pruned; none where it has no such part."""
    return tuple(
        part
        for part in parts_of(model)
        if part not in UNIT_PARTS or can_lose(model, hyperparameters, part, 1.0 - LEAST_KEPT[part])
    )


def space_of(kinds: Sequence[Kind], endings: Mapping[str, tuple[str, ...]] = ENDINGS) -> Space:
    """The space of a trained model, the first of `kinds`, and of those that it teaches."""

    def of(own: Sequence[Kind], axis: Axis) -> list[Axis]:
        """The axis, where there are kinds that have it."""
        if not own:
            return []
        only = () if len(own) == len(kinds) else (STUDENT, *(kind.name for kind in own))
        return [replace(axis, only_with=only)]

    students = [kind for kind in kinds if kind.name != ITSELF]
    names, layered = tuple(kind.name for kind in kinds), [kind for kind in students if kind.layers]
    embedded = [kind for kind in students if kind.dim > SMALLEST_DIM]
    most = max((kind.layers for kind in layered), default=0)
    halvings = max(((kind.dim // SMALLEST_DIM).bit_length() - 1 for kind in embedded), default=0)
    axes = of(kinds if students else (), Axis(STUDENT, ITSELF, choices=names))
    axes += of(layered, Axis(WIDTH, 0, 0, MOST_WIDTH_HALVINGS))
    axes += of(layered if most > 1 else (), Axis(LAYERS, most, 1, most))
    axes += of(embedded if halvings else (), Axis(DIM, 0, 0, halvings))
    for part in PARTS:
        switch = of([kind for kind in kinds if part in kind.parts], Axis(prunes(part), NO, choices=(NO, YES)))
        if switch:
            pruned = (prunes(part), YES)
            share = Axis(part, MOST_KEPT, LEAST_KEPT[part], MOST_KEPT, log=True, only_with=pruned)
            axes += [*switch, share]
    for name, choices in endings.items():
        only = (QUANTIZATION, STATIC, QAT) if name == ROW_BITS else ()  # float rows have no codes
        axes.append(Axis(name, choices[0], choices=choices, only_with=only))
    return Space(tuple(kinds), tuple(axes))
