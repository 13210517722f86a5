"""Which weights of a model can be pruned, found by the type of their layer anywhere in the model.

It knows the shared layers of `models.layers` and no model. A new kind of prunable layer is added here.
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
    """The weights of this model that can be pruned, as in DeepLight (section 5.3).

    - `dnn`: the weights of each hidden layer of each MLP, with a threshold per layer; not biases and output
      layers.
    - `field_matrix`: R of each FieldPairs, stored as its upper triangle and so symmetric by construction.
    - `embedding`: all tables under one threshold. All rows count, also those of ids that never occur in
      training: the paper counts all, and they take memory. So it is with rows that ids share (`hashed`, and
      the quotients of `qr`). The few factors of `qr` stay: a zero of these is a factor of one.

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
    """Part -> the share of its weights that is exactly zero, for the parts of this model."""
    zeros: dict[str, int] = {}
    sizes: dict[str, int] = {}
    for target in find_targets(model):
        for weight in target.weights:
            zeros[target.part] = zeros.get(target.part, 0) + int((weight == 0).count_nonzero())
            sizes[target.part] = sizes.get(target.part, 0) + weight.numel()
    return {part: zeros[part] / sizes[part] for part in sizes}
