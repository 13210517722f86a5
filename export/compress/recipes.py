"""Named pruning rates for each part of a model: the three of the DeepLight paper, ours, and none.

It knows no model; `export.compress.targets` says which weights belong to which part.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from export.errors import ExportError

UNIT_PARTS = ("neurons", "interactions", "dimensions")
"""Parts that are pruned as wholes: what goes leaves the graph smaller and faster."""

PARTS = ("dnn", "field_matrix", "embedding", *UNIT_PARTS)
"""Parts with a rate: D, R and F in the paper's notation, whose weights go one by one, and the whole ones."""


@dataclass(frozen=True)
class Recipe:
    """Target rates, in [0, 1): the share of weights that is zero at the end, for each part of a model.

    `neurons` is the share of the hidden layers' neurons that are removed. Their weights count among the zeros
    of `dnn`, so the higher of the two rates decides how many weights are left. `interactions` is that of the
    pairs, rows and numbers of heads in what a model has beside its perceptron
    (`export.compress.interactions`), and `dimensions` that of the numbers in an embedding. `searches` says
    that a run looks for better settings of training first (`export.tune`).

    Reference: Deng et al., "DeepLight", WSDM 2021, sections 4.2 and 5.3.4, for all but the whole parts.
    """

    name: str
    dnn: float
    field_matrix: float
    embedding: float
    neurons: float = 0.0
    interactions: float = 0.0
    dimensions: float = 0.0
    searches: bool = False

    def __post_init__(self) -> None:
        for part in PARTS:
            rate = getattr(self, part)
            if not 0.0 <= rate < 1.0:
                whose = part if part in UNIT_PARTS else "weights"
                raise ExportError(
                    f"'{part}' of recipe '{self.name}' must be in [0, 1) (got {rate!r}); "
                    f"it is the share of {whose} to prune, 0.9 for 90 %"
                )

    @property
    def rates(self) -> dict[str, float]:
        """Part -> target rate; whole parts are included only if some of them are pruned."""
        rates = {part: float(getattr(self, part)) for part in PARTS}
        return {part: rate for part, rate in rates.items() if part not in UNIT_PARTS or rate > 0.0}

    def with_units(self, **shares: float) -> Recipe:
        """This recipe with other shares of whole parts, which its name shows."""
        preset = self.name.partition(",")[0]
        changed = replace(self, **shares)  # type: ignore[arg-type]  # the names are those of rates
        usual = RECIPES.get(preset, RECIPES["none"])
        words = [
            f"{part} {getattr(changed, part):.0%}"
            for part in UNIT_PARTS
            if getattr(changed, part) != getattr(usual, part)
        ]
        return replace(changed, name=", ".join([preset, *words]))

    @property
    def prunes(self) -> bool:
        """Whether any part has a rate above 0."""
        return any(self.rates.values())


RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe("none", dnn=0.0, field_matrix=0.0, embedding=0.0),
        Recipe("accurate", dnn=0.0, field_matrix=0.0, embedding=0.0, searches=True),
        Recipe("high-performance", dnn=0.90, field_matrix=0.90, embedding=0.40),
        Recipe("low-memory", dnn=0.90, field_matrix=0.90, embedding=0.90),
        Recipe("low-latency", dnn=0.99, field_matrix=0.95, embedding=0.40),
        # Not the paper's: low-latency with a quarter of the neurons, see docs/pruning.md.
        Recipe("narrow", dnn=0.99, field_matrix=0.95, embedding=0.40, neurons=0.75),
    )
}


def find_recipe(name: str) -> Recipe:
    """The recipe of that name; raises ExportError with the known names."""
    if name not in RECIPES:
        raise ExportError(f"'preset' must be one of {', '.join(RECIPES)} (got {name!r}); pick one of these")
    return RECIPES[name]
