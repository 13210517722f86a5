"""Whole neurons of perceptrons: those that carry least are silenced while training goes on, then gone.

It knows linear layers in a row; neither models nor schedules.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from export.compress.magnitude import hold, largest


class WholeNeurons:
    """The hidden neurons of some perceptrons, each layer pruned at the same rate.

    A neuron carries |w_in| |w_out|: the norms of the weights that enter it and of those that leave it. With
    ReLU one may be doubled and the other halved without a change, and so does their product stay.

    To silence a neuron is to zero what leaves it. What it computes stays, so that the optimizer can bring it
    back, as it can a single weight: were both sides zero, neither would have a gradient.

    Tried instead, at 90 % of three layers of 400 (docs/pruning.md): the spread of a neuron's activations in
    place of |w_in|, and one ranking of all layers. Nothing was better beyond noise.
    """

    def __init__(self, perceptrons: Sequence[tuple[nn.Linear, ...]]) -> None:
        self._layers = [pair for layers in perceptrons for pair in itertools.pairwise(layers)]
        self._alive: dict[nn.Linear, Tensor] = {}  # bool [neurons], as the last silencing left it

    @torch.no_grad()
    def silence(self, rate: float) -> None:
        """Of each layer the share `rate` that carries least, to one neuron at most, is read by nobody."""
        for layer, reader in self._layers:
            carried = layer.weight.norm(dim=1) * reader.weight.norm(dim=0)
            (self._alive[layer],) = largest([carried], rate)
            hold(reader.weight, self._alive[layer].expand_as(reader.weight))

    def masks(self) -> list[tuple[Tensor, Tensor]]:
        """Each weight matrix with what of it stays once nothing enters or leaves a silent neuron."""
        entering = [(layer.weight, self._alive[layer].unsqueeze(1)) for layer, _ in self._layers]
        leaving = [(reader.weight, self._alive[layer].unsqueeze(0)) for layer, reader in self._layers]
        return [(weight, kept.expand_as(weight)) for weight, kept in entering + leaving]

    def silent_rows(self, weight: Tensor) -> Tensor | None:
        """bool [neurons, 1], which rows of this weight matrix enter silent neurons; None: no such matrix."""
        for layer, _ in self._layers:
            if layer.weight is weight:
                return ~self._alive[layer].unsqueeze(1)
        return None
