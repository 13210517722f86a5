"""The perceptrons of a model whose neurons can be removed, as lists of linear layers.

It knows `MLP` and no model. Perceptrons with generated weights, or activations with parameters, keep all of
their neurons.
"""

from __future__ import annotations

import itertools
from typing import Any

from torch import nn

from export.compress.dead_neurons import Perceptron, remove_dead_neurons
from export.compress.whole_units import Units, columns_of, rows_of
from models.layers import MLP

LinearLayers = tuple[nn.Linear, ...]


def linear_layers(mlp: MLP) -> LinearLayers | None:
    """Its linear layers from inputs to outputs, with ReLU between; None if it has any other part.

    Other parts read the neurons of the last layer, which is the output layer, or the last hidden layer if
    there is no output layer. The neurons of all earlier layers can be removed.
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
    """The layers of each perceptron of the model that has removable neurons."""
    found = (linear_layers(module) or () for module in model.modules() if isinstance(module, MLP))
    return tuple(layers for layers in found if len(layers) > 1)


def find_neurons(model: nn.Module) -> list[Units]:
    """The neurons of each hidden layer, with the layer that reads them."""
    return [
        Units("neurons", layer.out_features, (rows_of(layer.weight),), (columns_of(reader.weight),))
        for layers in find_perceptrons(model)
        for layer, reader in itertools.pairwise(layers)
    ]


def without_dead_neurons(layers: LinearLayers) -> Perceptron:
    """These layers as arrays, without dead neurons."""
    return remove_dead_neurons(
        [layer.weight.detach().cpu().numpy() for layer in layers],
        [layer.bias.detach().cpu().numpy() for layer in layers],
    )


def hidden_widths(layers: LinearLayers) -> tuple[int, ...]:
    """The number of neurons of each hidden layer."""
    return tuple(layer.out_features for layer in layers[:-1])


def dead_neuron_rate(model: nn.Module) -> float:
    """The share of the removable neurons that is dead; 0 if no neuron is removable."""
    perceptrons = find_perceptrons(model)
    total = sum(sum(hidden_widths(layers)) for layers in perceptrons)
    live = sum(sum(without_dead_neurons(layers).live) for layers in perceptrons)
    return 1.0 - live / total if total else 0.0
