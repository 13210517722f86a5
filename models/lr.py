"""LR: logistic regression on ids, the baseline for every other model.

Reference: McMahan et al., "Ad Click Prediction: a View from the Trenches", KDD 2013;
DeepLight eq. 2 without W. Departs from the reference in the optimizer (FTRL-Proximal there),
which is the training loop's choice.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.embedding import FeaturesEmbedding
from models.fields import Field


class LR(nn.Module):
    """w_0 + sum of w_i: a weight for each id, an embedding of dimension 1."""

    def __init__(self, fields: Sequence[Field]) -> None:
        super().__init__()
        self.fields = tuple(fields)
        self.embedding = FeaturesEmbedding(fields, dim=1)
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, ids: Tensor) -> Tensor:
        """ids [batch, columns] -> logits [batch]."""
        logits: Tensor = self.bias + self.embedding(ids).sum(dim=(1, 2))
        return logits
