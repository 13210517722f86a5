"""DNN: a perceptron on the embeddings of all fields, the simplest deep model.

Reference: Zhang, Du & Wang, "Deep Learning over Multi-field Categorical Data", ECIR 2016; layers and dropout
as in the deep part of every model of DeepLight (section 5.1.4). Departs from the reference in its embeddings,
which start random and not from a trained factorization machine.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.embedding import FeaturesEmbedding
from models.fields import Field
from models.layers import MLP


class DNN(nn.Module):
    """MLP(e)."""

    def __init__(
        self,
        fields: Sequence[Field],
        dim: int = 10,
        hidden_units: Sequence[int] = (400, 400, 400),
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        self.fields = tuple(fields)
        self.embedding = FeaturesEmbedding(fields, dim)
        self.mlp = MLP(len(fields) * dim, hidden_units, dropout)
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, ids: Tensor) -> Tensor:
        """ids [batch, columns] -> logits [batch]."""
        logits: Tensor = self.bias + self.mlp(self.embedding(ids).flatten(1))
        return logits
