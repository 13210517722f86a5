"""The perceptrons of a model whose neurons can be told apart and taken out, as the linear layers they are.

It knows `MLP` and no model. Others (with generated weights, or activations that have parameters of their own)
keep all of their neurons.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from export.compress.neurons import Perceptron, remove_dead_neurons
from models.layers import MLP

LinearLayers = tuple[nn.Linear, ...]


def linear_layers(mlp: MLP) -> LinearLayers | None:
    """Its layers from inputs to outputs, ReLU between them; None where it is anything else than that.

    The last one's neurons are read by others: it is the output layer, or where there is none the last hidden
    one. All before it are hidden: theirs can go.
    """
    hidden: Any = mlp.hidden
    layers = (*hidden, mlp.output) if mlp.has_output else tuple(hidden)
    own = {id(tensor) for layer in layers for tensor in layer.parameters()}
    is_plain = (
        mlp.activations is None
        and all(type(layer) is nn.Linear and layer.bias is not None for layer in layers)
        and {id(tensor) for tensor in mlp.parameters()} == own
    )
    return layers if is_plain else None


def find_perceptrons(model: nn.Module) -> tuple[LinearLayers, ...]:
    """The layers of each perceptron of the model that has hidden neurons to take out."""
    found = (linear_layers(module) or () for module in model.modules() if isinstance(module, MLP))
    return tuple(layers for layers in found if len(layers) > 1)


def without_dead_neurons(layers: LinearLayers) -> Perceptron:
    """What these layers compute, in arrays, without the neurons that no path of weights goes through."""
    return remove_dead_neurons(
        [layer.weight.detach().cpu().numpy() for layer in layers],
        [layer.bias.detach().cpu().numpy() for layer in layers],
    )


def hidden_widths(layers: LinearLayers) -> tuple[int, ...]:
    """Neurons of each hidden layer."""
    return tuple(layer.out_features for layer in layers[:-1])


def dead_neuron_rate(model: nn.Module) -> float:
    """The share of neurons that no path goes through, of those that can be taken out; 0 where none can."""
    perceptrons = find_perceptrons(model)
    total = sum(sum(hidden_widths(layers)) for layers in perceptrons)
    live = sum(sum(without_dead_neurons(layers).live) for layers in perceptrons)
    return 1.0 - live / total if total else 0.0
