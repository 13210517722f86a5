"""Deep Crossing: residual units on the stacked embeddings.

Reference: Shan et al., "Deep Crossing: Web-Scale Modeling without Manually Crafted Combinatorial Features",
KDD 2016, section 4: embedding, stacking, residual units of two layers, scoring. Departs from it in the
embeddings, which have no ReLU (an id below zero would get no gradient), in dim (256 there; 10 here, as in
every model) and in optional dropout; five units that narrow from 512 to 64 are our choice.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.embedding import FeaturesEmbedding
from models.fields import Field
from models.hyperparameters import check_widths
from models.layers import Dropout, start_before_relu


class ResidualUnit(nn.Module):
    """ReLU(x + W_1 ReLU(W_0 x + b_0) + b_1), the unit of the paper's figure 2."""

    def __init__(self, features: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.inner = nn.Linear(features, hidden)
        self.outer = nn.Linear(hidden, features)
        start_before_relu(self.inner)
        nn.init.zeros_(self.outer.bias)
        self.dropout = Dropout(dropout)

    def forward(self, inputs: Tensor) -> Tensor:
        """inputs [batch, features] -> [batch, features]."""
        return F.relu(inputs + self.outer(self.dropout(F.relu(self.inner(inputs)))))


class DeepCrossing(nn.Module):
    """Score(residual units(e)): `hidden_units` are the widths inside the units; the stack keeps its width."""

    def __init__(
        self,
        fields: Sequence[Field],
        dim: int = 10,
        hidden_units: Sequence[int] = (512, 512, 256, 128, 64),
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_widths("hidden_units", hidden_units, "they are the widths inside the residual units")
        self.fields = tuple(fields)
        self.embedding = FeaturesEmbedding(fields, dim)
        stacked = len(fields) * dim
        self.units = nn.Sequential(*(ResidualUnit(stacked, hidden, dropout) for hidden in hidden_units))
        self.score = nn.Linear(stacked, 1, bias=False)
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, ids: Tensor) -> Tensor:
        """ids [batch, columns] -> logits [batch]."""
        stack = self.embedding(ids).flatten(1)  # [batch, n_fields * dim]
        logits: Tensor = self.bias + self.score(self.units(stack)).squeeze(1)
        return logits
