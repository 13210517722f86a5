"""DIEN: the evolution of a user's interests along the history, weighted by their relevance to the ad.

Reference: Zhou et al., "Deep Interest Evolution Network for Click-Through Rate Prediction", AAAI 2019,
eq. 2 to 8 and its AUGRU. Departs from it in the auxiliary loss's score, the inner product of the interest and
the next element, and in the negatives, sampled at each step from all ids of the field.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.dice import Dice
from models.embedding import FeaturesEmbedding
from models.fields import PADDING_ID, Field
from models.histories import find_histories, with_histories
from models.hyperparameters import check_at_least
from models.layers import MLP
from models.penalty import Penalized


class GatedRecurrence(nn.Module):
    """GRU, eq. 2 to 5, with a scaled update gate; with attention as the scale it is the paper's AUGRU."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.input = nn.Linear(dim, 3 * dim)
        self.state = nn.Linear(dim, 3 * dim, bias=False)

    def forward(self, inputs: Tensor, scale: Tensor) -> Tensor:
        """inputs [batch, length, dim], scale [batch, length] in [0, 1] -> states [batch, length, dim].

        A scale of 0, as for padding, keeps the state.
        """
        gates = self.input(inputs)  # [batch, length, 3 dim]
        state = torch.zeros_like(inputs[:, 0])
        states = []
        for step in range(inputs.shape[1]):
            update, reset, fresh = gates[:, step].chunk(3, dim=1)
            from_update, from_reset, from_state = self.state(state).chunk(3, dim=1)
            candidate = torch.tanh(fresh + torch.sigmoid(reset + from_reset) * from_state)
            share = torch.sigmoid(update + from_update) * scale[:, step : step + 1]
            state = state + share * (candidate - state)
            states.append(state)
        return torch.stack(states, dim=1)


class InterestEvolution(nn.Module):
    """One history and the ad -> the final interest of the history with respect to the ad."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.extraction = GatedRecurrence(dim)
        self.attention = nn.Linear(dim, dim, bias=False)  # W of eq. 8
        self.evolution = GatedRecurrence(dim)

    def forward(self, elements: Tensor, target: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """elements [batch, length, dim], target [batch, dim], present [batch, length] of 0.0 and 1.0.

        -> the last evolved state [batch, dim], and the interests [batch, length, dim].
        """
        interests = self.extraction(elements, present)
        scores = (interests @ self.attention(target).unsqueeze(2)).squeeze(2)  # [batch, length]
        attention = torch.softmax(scores + (present - 1.0) * 1e4, dim=1) * present
        return self.evolution(interests, attention)[:, -1], interests


class DIEN(Penalized):
    """MLP([the other fields, for each history its evolved interest]).

    In training `penalty` is `auxiliary` times the loss that trains each interest to distinguish the next
    element from a random one, eq. 6. `target` names the ad's field for histories without `same_values_as`.
    """

    def __init__(
        self,
        fields: Sequence[Field],
        dim: int = 10,
        hidden_units: Sequence[int] = (200, 80),
        dropout: float = 0.0,
        auxiliary: float = 1.0,
        target: str | None = None,
    ) -> None:
        super().__init__()
        check_at_least("auxiliary", auxiliary, 0, "it is the weight of the penalty in the loss")
        self.fields = tuple(fields)
        self.histories = find_histories(fields, target)
        self.embedding = FeaturesEmbedding(fields, dim)
        self.evolutions = nn.ModuleList(InterestEvolution(dim) for _ in self.histories)
        self.mlp = MLP(len(fields) * dim, hidden_units, dropout, activation=Dice)
        self.auxiliary = auxiliary

    def forward(self, ids: Tensor) -> Tensor:
        """ids [batch, columns] -> logits [batch]."""
        rows = self.embedding.rows(ids)  # [batch, columns, dim]
        others = self.embedding.rows(self._random_histories(ids)) if self.training else None
        interests, losses = [], []
        for history, evolve in zip(self.histories, self.evolutions, strict=True):
            elements = rows[:, history.columns]
            present = (ids[:, history.columns] != PADDING_ID).to(rows.dtype)
            evolved, states = evolve(elements, rows[:, history.target], present)
            interests.append(evolved)
            if others is not None:
                losses.append(auxiliary_loss(states, elements, others[:, history.columns], present))
        self.penalty = self.auxiliary * torch.stack(losses).sum() if losses else None
        inputs = with_histories(self.fields, self.histories, ids, rows, interests)
        logits: Tensor = self.mlp(inputs)
        return logits

    def _random_histories(self, ids: Tensor) -> Tensor:
        """ids with every history's elements replaced by random ones."""
        others = ids.clone()
        for history in self.histories:
            cardinality = self.fields[history.position].cardinality
            least = min(PADDING_ID + 1, cardinality - 1)  # a field with padding only has no other id
            others[:, history.columns] = torch.randint_like(others[:, history.columns], least, cardinality)
        return others


def auxiliary_loss(interests: Tensor, elements: Tensor, others: Tensor, present: Tensor) -> Tensor:
    """Eq. 6, the interest after step t against element t + 1, averaged over steps with a next element.

    interests, elements, others (random ones) [batch, length, dim], present [batch, length] -> a scalar.
    """
    known = present[:, 1:]
    next_ones = (interests[:, :-1] * elements[:, 1:]).sum(dim=2)
    random_ones = (interests[:, :-1] * others[:, 1:]).sum(dim=2)
    losses = F.softplus(-next_ones) + F.softplus(random_ones)
    return (losses * known).sum() / known.sum().clamp(min=1.0)
