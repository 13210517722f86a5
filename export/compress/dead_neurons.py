"""A sparse perceptron's weights -> the same function without dead neurons, those on no path of weights.

It knows arrays only, no layer and no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]


@dataclass(frozen=True)
class Perceptron:
    """Linear layers with ReLU between: `weights[l]` [out, in], `biases[l]` [out]; the last is the output.

    `live` counts the neurons on a path, for each hidden layer. A layer keeps at least one neuron: if none is
    live, its width is 1 and its weights are zero.
    """

    weights: tuple[Array, ...]
    biases: tuple[Array, ...]
    live: tuple[int, ...]

    @property
    def widths(self) -> tuple[int, ...]:
        """The number of neurons of each hidden layer."""
        return tuple(len(bias) for bias in self.biases[:-1])

    @property
    def dead_inputs(self) -> int:
        """The number of inputs without a weight."""
        return int((~self.weights[0].any(axis=0)).sum())


def remove_dead_neurons(weights: Sequence[Array], biases: Sequence[Array]) -> Perceptron:
    """The smallest perceptron of the same depth and dtype that computes the same function.

    A neuron without input weights is the constant relu(bias), which is folded into the next layer's biases. A
    neuron without output weights is dropped. One pass in each direction suffices: folding does not change
    earlier layers, and dropping removes only columns of zeros, so no later neuron loses an input.
    """
    depth = len(weights) - 1
    W = [weight.astype(np.float64) for weight in weights]
    b = [bias.astype(np.float64) for bias in biases]
    live = []
    for layer in range(depth):
        constant = ~W[layer].any(axis=1)
        b[layer + 1] += W[layer + 1][:, constant] @ np.maximum(b[layer][constant], 0.0)
        W[layer + 1][:, constant] = 0.0
        live.append(~constant)
    for layer in reversed(range(depth)):
        live[layer] &= W[layer + 1].any(axis=0)
        for dead in (W[layer], b[layer]):  # so that the layer before need not compute their inputs
            dead[~live[layer]] = 0.0
    kept = [np.arange(W[0].shape[1])]
    kept += [np.flatnonzero(alive) if alive.any() else np.array([0]) for alive in live]
    kept.append(np.arange(len(b[-1])))
    return Perceptron(
        tuple(
            W[layer][np.ix_(kept[layer + 1], kept[layer])].astype(weights[layer].dtype)
            for layer in range(depth + 1)
        ),
        tuple(b[layer][kept[layer + 1]].astype(biases[layer].dtype) for layer in range(depth + 1)),
        tuple(int(alive.sum()) for alive in live),
    )
