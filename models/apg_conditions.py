"""What an adaptive layer's parameters are generated from, and how it reaches the layer.

Reference: Yan et al., "APG: Adaptive Parameter Generation Network for Click-Through Rate Prediction",
NeurIPS 2022, section 3.1.1 and appendix A. Self-wise: z is the layer's own input, and nothing of this file is
needed. Group-wise: z is the embedding of one field. Mix-wise: of several fields, brought together before the
parameters are generated (input aggregation) or after (output aggregation).

A backbone knows nothing of conditions. Its embedding is wrapped in one that leaves z for the layers above it,
for as long as one forward pass lasts: in a context variable, so that neither another thread, nor another
model, nor the next batch ever sees it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from models.embedding import FeaturesEmbedding
from models.fields import find_field
from models.hyperparameters import check_choice

Aggregation = Literal["concatenation", "mean", "attention"]
AGGREGATIONS: tuple[Aggregation, ...] = get_args(Aggregation)
Stage = Literal["input", "output"]


@dataclass
class _Pass:
    condition: Tensor | None = None


_PASS: ContextVar[_Pass | None] = ContextVar("forward pass of an adaptive model", default=None)


@contextmanager
def forward_pass() -> Iterator[None]:
    """Inside, what a ConditioningEmbedding looks up is the adaptive layers' condition; then it is gone."""
    token = _PASS.set(_Pass())
    try:
        yield
    finally:
        _PASS.reset(token)


def condition_of_this_pass() -> Tensor:
    """What the embedding left in this forward pass. Raises RuntimeError where it left nothing."""
    current = _PASS.get()
    if current is None or current.condition is None:
        raise RuntimeError(
            "the condition of an adaptive layer must be looked up before the layer is run (there is none); "
            "call the model, or pass the condition to the layer"
        )
    return current.condition


class Mixture(nn.Module):
    """Brings k vectors together: one behind the other, their mean, or their sum weighted by attention.

    The reference leaves the form of attention open. Here the weights are the softmax over j of
    <q_j, v_j> + b_j: with q and b zero, as they start, it is the mean.
    """

    def __init__(self, how: Aggregation, count: int, size: int) -> None:
        super().__init__()
        check_choice("aggregation", how, AGGREGATIONS, "it says how conditions come together")
        self.how = how
        self.out_features = count * size if how == "concatenation" else size
        if how == "attention":
            self.queries = nn.Parameter(torch.zeros(count, size))
            self.biases = nn.Parameter(torch.zeros(count))

    def forward(self, vectors: Tensor) -> Tensor:
        """vectors [batch, count, size] -> [batch, out_features]."""
        if self.how == "concatenation":
            return vectors.flatten(1)
        if self.how == "mean":
            return vectors.mean(dim=1)
        weights = torch.softmax((vectors * self.queries).sum(dim=2) + self.biases, dim=1)  # [batch, count]
        return (weights.unsqueeze(1) @ vectors).squeeze(1)


class Conditions(nn.Module):
    """The condition of a pass, from the embeddings of the chosen fields.

    size      numbers in one condition
    separate  conditions that stay apart until output aggregation; 1 where there is but one
    """

    positions: Tensor

    def __init__(
        self, embedding: FeaturesEmbedding, names: Sequence[str], stage: Stage, aggregation: Aggregation
    ) -> None:
        super().__init__()
        if len(set(names)) < len(names):
            raise ValueError(f"'condition_fields' must be distinct (got {names!r}); name each field once")
        check_choice("aggregate_at", stage, get_args(Stage), "input is the paper's best")
        positions = [find_field(embedding.fields, name, "condition_fields") for name in names]
        self.register_buffer("positions", torch.tensor(positions), persistent=False)
        dim = embedding.table.embedding_dim
        together = Mixture(aggregation, len(names), dim)  # made in any case: it judges its arguments
        self.separate = len(names) if stage == "output" else 1
        self.mixture = together if self.separate == 1 and len(names) > 1 else None
        self.size = dim if self.mixture is None else self.mixture.out_features

    def forward(self, embeddings: Tensor) -> Tensor:
        """embeddings [batch, n_fields, dim] -> [batch, size]; if they stay apart, [batch, separate, size]."""
        chosen = embeddings.index_select(1, self.positions)  # [batch, conditions, dim]
        if self.separate > 1:
            return chosen
        return chosen.squeeze(1) if self.mixture is None else self.mixture(chosen)


class ConditioningEmbedding(nn.Module):
    """A backbone's embedding that, as it is looked up, leaves the condition for the adaptive layers."""

    def __init__(self, inner: FeaturesEmbedding, conditions: Conditions) -> None:
        super().__init__()
        self.inner = inner
        self.conditions = conditions

    def __getattr__(self, name: str) -> Any:
        """To whoever reads the model it is the embedding within: its table, its fields, its rows."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("inner"), name)

    def forward(self, ids: Tensor) -> Tensor:
        """ids [batch, columns] -> embeddings [batch, n_fields, dim]."""
        embeddings: Tensor = self.inner(ids)
        current = _PASS.get()
        if current is not None:
            current.condition = self.conditions(embeddings)
        return embeddings
