"""Prunes whole neurons of perceptrons: the least important are silenced during training, then removed.

It knows sequences of linear layers, neither models nor schedules.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from export.compress.magnitude import apply_mask, largest_mask


class WholeNeurons:
    """The hidden neurons of some perceptrons, each layer pruned at the same rate.

    The importance of a neuron is |w_in| |w_out|, the product of the norms of its input and output weights.
    With ReLU, doubling one and halving the other changes nothing, and the product stays the same.

    Silencing a neuron zeroes its output weights and keeps its input weights, so the optimizer can restore it,
    as it can a single weight. If both were zero, neither would have a gradient.

    Alternatives (docs/pruning.md) gave no improvement beyond noise: the standard deviation of a neuron's
    activations in place of |w_in|, and one ranking across all layers.
    """

    def __init__(self, perceptrons: Sequence[tuple[nn.Linear, ...]]) -> None:
        self._layers = [pair for layers in perceptrons for pair in itertools.pairwise(layers)]
        self._alive: dict[nn.Linear, Tensor] = {}  # bool [neurons], from the last call of silence

    @torch.no_grad()
    def silence(self, rate: float) -> None:
        """Silences the share `rate` of each layer with the least importance; one neuron at least stays."""
        for layer, reader in self._layers:
            importance = layer.weight.norm(dim=1) * reader.weight.norm(dim=0)
            (self._alive[layer],) = largest_mask([importance], rate)
            apply_mask(reader.weight, self._alive[layer].expand_as(reader.weight))

    def masks(self) -> list[tuple[Tensor, Tensor]]:
        """Each weight matrix with a mask that removes all weights of silent neurons."""
        entering = [(layer.weight, self._alive[layer].unsqueeze(1)) for layer, _ in self._layers]
        leaving = [(reader.weight, self._alive[layer].unsqueeze(0)) for layer, reader in self._layers]
        return [(weight, kept.expand_as(weight)) for weight, kept in entering + leaving]

    def silent_rows(self, weight: Tensor) -> Tensor | None:
        """bool [neurons, 1], the silent neurons' rows of this weight matrix; None for any other matrix."""
        for layer, _ in self._layers:
            if layer.weight is weight:
                return ~self._alive[layer].unsqueeze(1)
        return None
