"""DeepFM: a factorization machine and a perceptron on the same embeddings.

Reference: Guo et al., "DeepFM: A Factorization-Machine based Neural Network for CTR Prediction", IJCAI 2017,
eq. 1 to 4; defaults as in its section 3.1.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.embedding import FeaturesEmbedding, LinearTerm
from models.fields import Field
from models.layers import MLP, BiInteraction


class DeepFM(nn.Module):
    """FM(e) + MLP(e)."""

    def __init__(
        self,
        fields: Sequence[Field],
        dim: int = 10,
        hidden_units: Sequence[int] = (400, 400, 400),
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        self.fields = tuple(fields)
        self.wide = LinearTerm(fields)
        self.embedding = FeaturesEmbedding(fields, dim)
        self.interaction = BiInteraction()
        self.mlp = MLP(len(fields) * dim, hidden_units, dropout)
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, ids: Tensor) -> Tensor:
        """ids [batch, columns] -> logits [batch]."""
        embeddings = self.embedding(ids)  # [batch, n_fields, dim]
        shallow = self.wide(ids) + self.interaction(embeddings).sum(dim=1)
        logits: Tensor = self.bias + shallow + self.mlp(embeddings.flatten(1))
        return logits
