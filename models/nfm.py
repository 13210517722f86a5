"""NFM: a perceptron on the sum of the element-wise products of all pairs.

Reference: He & Chua, "Neural Factorization Machines for Sparse Predictive Analytics", SIGIR 2017, section 3,
with its batch normalization and dropout after the pooling. Departs from it in normalizing the pooled vector
only (the authors' code also normalizes each hidden layer), in dim (64 there; 10 here, as in every model) and
in random initial embeddings, not those of a trained FM.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from models.embedding import FeaturesEmbedding, LinearTerm
from models.fields import Field
from models.layers import MLP, BatchNorm, BiInteraction, Dropout


class NFM(nn.Module):
    """w_0 + sum of w_i + MLP(dropout(normalize(BiInteraction(e))))."""

    def __init__(
        self,
        fields: Sequence[Field],
        dim: int = 10,
        hidden_units: Sequence[int] = (64,),
        dropout: float = 0.5,
        batch_norm: bool = True,
    ) -> None:
        super().__init__()
        self.fields = tuple(fields)
        self.wide = LinearTerm(fields)
        self.embedding = FeaturesEmbedding(fields, dim)
        self.interaction = BiInteraction()
        self.normalize = BatchNorm(dim) if batch_norm else nn.Identity()
        self.dropout = Dropout(dropout)
        self.mlp = MLP(dim, hidden_units, dropout)
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, ids: Tensor) -> Tensor:
        """ids [batch, columns] -> logits [batch]."""
        pooled = self.normalize(self.interaction(self.embedding(ids)))  # [batch, dim]
        logits: Tensor = self.bias + self.wide(ids) + self.mlp(self.dropout(pooled))
        return logits

    def folded(self) -> Self:
        """For inference: the affine normalization is folded into the next layer."""
        folded = copy.deepcopy(self).eval()
        if isinstance(folded.normalize, BatchNorm):
            layers: list[Any] = [*folded.mlp.hidden, folded.mlp.output]
            folded.normalize.fold_into(layers[0])
            folded.normalize = nn.Identity()
        return folded
