"""FM: a weight for each id, and for each pair of fields the inner product of their vectors.

Reference: Rendle, "Factorization Machines", ICDM 2010, eq. 1, computed as in its lemma 3.1; 10 factors, as
for every model in DeepLight. Departs from it for sequences: a sequence is one field, the mean (or the sum) of
its ids' vectors and weights.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.embedding import FeaturesEmbedding, LinearTerm
from models.fields import Field
from models.layers import BiInteraction


class FM(nn.Module):
    """w_0 + sum of w_i + sum over pairs of <v_i, v_j>."""

    def __init__(self, fields: Sequence[Field], dim: int = 10) -> None:
        super().__init__()
        self.fields = tuple(fields)
        self.wide = LinearTerm(fields)
        self.embedding = FeaturesEmbedding(fields, dim)
        self.interaction = BiInteraction()
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, ids: Tensor) -> Tensor:
        """ids [batch, columns] -> logits [batch]."""
        pairs = self.interaction(self.embedding(ids)).sum(dim=1)
        logits: Tensor = self.bias + self.wide(ids) + pairs
        return logits
