"""DIN: a user's history pooled with weights for each element's relevance to the ad.

Reference: Zhou et al., "Deep Interest Network for Click-Through Rate Prediction", KDD 2018, eq. 3, with
its Dice for activations (section 5.2). Departs from it in the activation unit's input: the element, the ad
and their element-wise product (the difference in the paper's figure is linear in the first two and adds
nothing; the authors' code replaces the outer product by the element-wise one). Weights are not normalised, as
in the paper.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.dice import Dice
from models.embedding import FeaturesEmbedding
from models.fields import PADDING_ID, Field
from models.histories import find_histories, with_histories
from models.hyperparameters import check_widths
from models.layers import MLP


class ActivationUnit(nn.Module):
    """The relevance of an element e_j of the history for the ad v_A: a(e_j, v_A), eq. 3."""

    def __init__(self, dim: int, hidden_units: Sequence[int]) -> None:
        super().__init__()
        self.mlp = MLP(3 * dim, hidden_units, dropout=0.0, activation=Dice)

    def forward(self, elements: Tensor, target: Tensor) -> Tensor:
        """elements [batch, length, dim], target [batch, dim] -> weights [batch, length]."""
        targets = target.unsqueeze(1).expand_as(elements)
        inputs = torch.cat([elements, targets, elements * targets], dim=2)
        weights: Tensor = self.mlp(inputs.flatten(0, 1))
        return weights.reshape(elements.shape[:2])


class DIN(nn.Module):
    """MLP([the other fields, for each history the sum of a(e_j, v_A) e_j over its elements]).

    `target` names the ad's field for histories without `same_values_as`.
    """

    def __init__(
        self,
        fields: Sequence[Field],
        dim: int = 10,
        hidden_units: Sequence[int] = (200, 80),
        dropout: float = 0.0,
        attention_units: Sequence[int] = (36,),
        target: str | None = None,
    ) -> None:
        super().__init__()
        check_widths("attention_units", attention_units, "they are the activation unit's hidden layers")
        self.fields = tuple(fields)
        self.histories = find_histories(fields, target)
        self.embedding = FeaturesEmbedding(fields, dim)
        self.units = nn.ModuleList(ActivationUnit(dim, attention_units) for _ in self.histories)
        self.mlp = MLP(len(fields) * dim, hidden_units, dropout, activation=Dice)

    def forward(self, ids: Tensor) -> Tensor:
        """ids [batch, columns] -> logits [batch]."""
        rows = self.embedding.rows(ids)  # [batch, columns, dim]
        interests = []
        for history, unit in zip(self.histories, self.units, strict=True):
            elements = rows[:, history.columns]
            present = (ids[:, history.columns] != PADDING_ID).to(rows.dtype)
            weights = unit(elements, rows[:, history.target]) * present  # [batch, length]
            interests.append((weights.unsqueeze(1) @ elements).squeeze(1))
        inputs = with_histories(self.fields, self.histories, ids, rows, interests)
        logits: Tensor = self.mlp(inputs)
        return logits
