"""FINAL: two blocks of layers whose outputs are products of two linear layers, in place of a perceptron.

Reference: Zhu et al., "FINAL: Factorized Interaction Layer for CTR Prediction", SIGIR 2023, with interactions
of order 2 in each layer, so the degree doubles with each, and two blocks that learn from their mean by
self-knowledge distillation. Field gates, batch normalization, factors without an activation, and widths are
those of the authors' code (FuxiCTR). Departs from that code in the layer's output, the paper's sum of h_1 and
h_2, which it concatenates by default, each of half the width; and in dropout, which is 0 there.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.embedding import FeaturesEmbedding
from models.fields import Field
from models.hyperparameters import check_at_least, check_widths
from models.layers import BatchNorm, Dropout
from models.penalty import Penalized


class FactorizedInteraction(nn.Module):
    """h_1 + h_2 with h_1 = W_1 x + b_1 and h_2 = h_1 * (W_2 x + b_2)."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.factors = nn.Linear(in_features, 2 * out_features)  # W_1 above W_2
        nn.init.xavier_uniform_(self.factors.weight)
        nn.init.zeros_(self.factors.bias)

    def forward(self, inputs: Tensor) -> Tensor:
        """inputs [batch, in_features] -> [batch, out_features]."""
        first, second = self.factors(inputs).chunk(2, dim=1)
        interactions: Tensor = first + first * second
        return interactions


class FieldGate(nn.Module):
    """The embeddings, and below them the same times gates: g_i = b_i + sum over j of W_ij e_j, and g_i * e_i.

    A new gate is 1 for any row, so the block starts with the plain embeddings twice.
    """

    def __init__(self, n_fields: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(n_fields, n_fields))
        self.bias = nn.Parameter(torch.ones(n_fields, 1))

    def forward(self, embeddings: Tensor) -> Tensor:
        """embeddings [batch, n_fields, dim] -> [batch, 2 * n_fields, dim]."""
        gates = self.weight @ embeddings + self.bias
        return torch.cat([embeddings, embeddings * gates], dim=1)


class InteractionBlock(nn.Module):
    """Factorized interactions, each normalized and with dropout, and a linear output."""

    def __init__(
        self, in_features: int, hidden_units: Sequence[int], dropout: float, *, batch_norm: bool
    ) -> None:
        super().__init__()
        check_widths("hidden_units", hidden_units, "they are the widths of the layers of each block")
        widths = (in_features, *hidden_units)
        self.layers = nn.ModuleList(
            FactorizedInteraction(widths[depth], width) for depth, width in enumerate(hidden_units)
        )
        self.norms = nn.ModuleList(map(BatchNorm if batch_norm else nn.Identity, hidden_units))
        self.dropout = Dropout(dropout)
        self.output = nn.Linear(widths[-1], 1)
        nn.init.zeros_(self.output.bias)

    def forward(self, inputs: Tensor) -> Tensor:
        """inputs [batch, in_features] -> logits [batch]."""
        for layer, normalize in zip(self.layers, self.norms, strict=True):
            inputs = self.dropout(normalize(layer(inputs)))
        logits: Tensor = self.output(inputs).squeeze(1)
        return logits

    def folded(self) -> Self:
        """For inference: each affine normalization is folded into the linear layer that reads it."""
        folded = copy.deepcopy(self).eval()
        layers: Any = folded.layers
        linear = [*(layer.factors for layer in layers), folded.output]
        for depth, (normalize, reader) in enumerate(zip(folded.norms, linear[1:], strict=True)):
            if isinstance(normalize, BatchNorm):
                normalize.fold_into(reader)
                folded.norms[depth] = nn.Identity()
        return folded


class FINAL(Penalized):
    """The mean of two blocks' logits; the first block reads gated embeddings beside the plain ones.

    In training `penalty` is `distillation` times the cross entropy of each block's click probability with
    that of the mean, through which no gradient flows.

    field_gate  whether there are gates; without them both blocks read the same
    two_blocks  whether there is a second block; without it there is nothing to distill
    """

    def __init__(
        self,
        fields: Sequence[Field],
        dim: int = 10,
        hidden_units: Sequence[int] = (64, 64, 64),
        dropout: float = 0.2,
        batch_norm: bool = True,
        field_gate: bool = True,
        two_blocks: bool = True,
        distillation: float = 1.0,
    ) -> None:
        super().__init__()
        check_at_least("distillation", distillation, 0, "it is the weight of the penalty in the loss")
        self.fields, self.distillation = tuple(fields), distillation
        width = len(fields) * dim
        self.embedding = FeaturesEmbedding(fields, dim)
        self.gate = FieldGate(len(fields)) if field_gate else nn.Identity()
        first_width = 2 * width if field_gate else width
        self.first = InteractionBlock(first_width, hidden_units, dropout, batch_norm=batch_norm)
        self.second = (
            InteractionBlock(width, hidden_units, dropout, batch_norm=batch_norm) if two_blocks else None
        )
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, ids: Tensor) -> Tensor:
        """ids [batch, columns] -> logits [batch]."""
        embeddings = self.embedding(ids)  # [batch, n_fields, dim]
        first: Tensor = self.bias + self.first(self.gate(embeddings).flatten(1))
        if self.second is None:
            return first
        second: Tensor = self.bias + self.second(embeddings.flatten(1))
        logits = 0.5 * (first + second)
        self.penalty = self.distillation * _distilled(logits, (first, second)) if self.training else None
        return logits


def _distilled(teacher: Tensor, students: Sequence[Tensor]) -> Tensor:
    """The sum over students of the mean cross entropy with the teacher; all logits [batch] -> a scalar."""
    targets = teacher.detach().sigmoid()
    return torch.stack([F.binary_cross_entropy_with_logits(logits, targets) for logits in students]).sum()
