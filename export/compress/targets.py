"""Which weights of a model pruning may touch, found by the type of layer, wherever it stands in the model.

It knows the shared layers of `models.layers` and no model. To prune a new kind of layer, add it here.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from models.embedding import FeaturesEmbedding
from models.layers import MLP, FieldPairs


@dataclass(frozen=True)
class Target:
    """Weights that are pruned together, under one threshold."""

    part: str
    weights: tuple[Tensor, ...]


def find_targets(model: nn.Module) -> tuple[Target, ...]:
    """What can be pruned in this model, as DeepLight (section 5.3) draws the line.

    - `dnn`: the weights of each hidden layer of each MLP, a threshold per layer; biases and the output layer
      are spared.
    - `field_matrix`: R of each FieldPairs, which is its upper triangle and so symmetric by construction.
    - `embedding`: all tables under one threshold. Every row counts, those of ids that training never drew
      too: the paper counts all, and they do take memory.

    Layers of other types stay dense.
    """
    targets: list[Target] = []
    tables: list[Tensor] = []
    for module in model.modules():
        if isinstance(module, MLP):
            targets += [
                Target("dnn", (linear.weight,)) for linear in module.hidden if isinstance(linear, nn.Linear)
            ]
        elif isinstance(module, FieldPairs) and module.weight.numel():
            targets.append(Target("field_matrix", (module.weight,)))
        elif isinstance(module, FeaturesEmbedding):
            tables.append(module.table.weight)
    if tables:
        targets.append(Target("embedding", tuple(tables)))
    return tuple(targets)


def zero_rates(model: nn.Module) -> dict[str, float]:
    """Part -> the share of its weights that is exactly zero, for the parts this model has."""
    zeros: dict[str, int] = {}
    sizes: dict[str, int] = {}
    for target in find_targets(model):
        for weight in target.weights:
            zeros[target.part] = zeros.get(target.part, 0) + int((weight == 0).count_nonzero())
            sizes[target.part] = sizes.get(target.part, 0) + weight.numel()
    return {part: zeros[part] / sizes[part] for part in sizes}
