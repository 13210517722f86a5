"""How much of which part to prune, by name: the three recipes of the DeepLight paper, and none.

It knows no model; `export.compress.targets` says which weights belong to which part.
"""

from __future__ import annotations

from dataclasses import dataclass

from export.errors import ExportError

PARTS = ("dnn", "field_matrix", "embedding")
"""The parts of a model that have a rate of their own: D, R and F in the paper's notation."""


@dataclass(frozen=True)
class Recipe:
    """Target rates: the share of weights that is zero at the end, in [0, 1), for each part.

    Reference: Deng et al., "DeepLight", WSDM 2021, sections 4.2 and 5.3.4.
    """

    name: str
    dnn: float
    field_matrix: float
    embedding: float

    def __post_init__(self) -> None:
        for part, rate in self.rates.items():
            if not 0.0 <= rate < 1.0:
                raise ExportError(
                    f"'{part}' of recipe '{self.name}' must be in [0, 1) (got {rate!r}); "
                    "it is the share of weights to prune, 0.9 for D-90%"
                )

    @property
    def rates(self) -> dict[str, float]:
        """Part -> target rate."""
        return {"dnn": self.dnn, "field_matrix": self.field_matrix, "embedding": self.embedding}

    @property
    def prunes(self) -> bool:
        """Whether any part has a rate above 0."""
        return any(self.rates.values())


RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe("none", dnn=0.0, field_matrix=0.0, embedding=0.0),
        Recipe("high-performance", dnn=0.90, field_matrix=0.90, embedding=0.40),
        Recipe("low-memory", dnn=0.90, field_matrix=0.90, embedding=0.90),
        Recipe("low-latency", dnn=0.99, field_matrix=0.95, embedding=0.40),
    )
}


def find_recipe(name: str) -> Recipe:
    """The recipe of that name; raises ExportError with the names there are."""
    if name not in RECIPES:
        raise ExportError(f"'preset' must be one of {', '.join(RECIPES)} (got {name!r}); pick one of these")
    return RECIPES[name]
