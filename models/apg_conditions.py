"""The conditions that an adaptive layer's parameters are generated from, and how they reach the layer.

Reference: Yan et al., "APG: Adaptive Parameter Generation Network for Click-Through Rate Prediction",
NeurIPS 2022, section 3.1.1 and appendix A. Self-wise: z is the layer's own input, and this file is not
needed. Group-wise: z is the embedding of one field. Mix-wise: z comes from several fields, aggregated before
the parameters are generated (input aggregation) or after (output aggregation).

A backbone knows nothing of conditions. A wrapper of its embedding stores z for the layers above during one
forward pass, in a context variable, so other threads, other models and later batches cannot see it.
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
    """Within the context a ConditioningEmbedding sets the condition of the adaptive layers."""
    token = _PASS.set(_Pass())
    try:
        yield
    finally:
        _PASS.reset(token)


def condition_of_this_pass() -> Tensor:
    """The condition that the embedding set in this forward pass. Raises RuntimeError if it set none."""
    current = _PASS.get()
    if current is None or current.condition is None:
        raise RuntimeError(
            "the condition of an adaptive layer must be set before the layer runs (got none); "
            "call the model, or pass the condition to the layer"
        )
    return current.condition


class Mixture(nn.Module):
    """Combines k vectors: their concatenation, their mean, or their sum weighted by attention.

    The reference does not specify the attention. Here the weights are the softmax over j of <q_j, v_j> + b_j,
    which is the mean for the initial q = 0 and b = 0.
    """

    def __init__(self, how: Aggregation, count: int, size: int) -> None:
        super().__init__()
        check_choice("aggregation", how, AGGREGATIONS, "it says how conditions are combined")
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

    size      the size of one condition
    separate  the number of conditions that stay separate until output aggregation, else 1
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
        mixture = Mixture(aggregation, len(names), dim)  # always created, because it checks its arguments
        self.separate = len(names) if stage == "output" else 1
        self.mixture = mixture if self.separate == 1 and len(names) > 1 else None
        self.size = dim if self.mixture is None else self.mixture.out_features

    def forward(self, embeddings: Tensor) -> Tensor:
        """embeddings [batch, n_fields, dim] -> [batch, size], or [batch, separate, size] if separate > 1."""
        chosen = embeddings.index_select(1, self.positions)  # [batch, conditions, dim]
        if self.separate > 1:
            return chosen
        return chosen.squeeze(1) if self.mixture is None else self.mixture(chosen)


class ConditioningEmbedding(nn.Module):
    """Wraps a backbone's embedding and sets the adaptive layers' condition in its forward pass."""

    def __init__(self, inner: FeaturesEmbedding, conditions: Conditions) -> None:
        super().__init__()
        self.inner = inner
        self.conditions = conditions

    def __getattr__(self, name: str) -> Any:
        """Delegates to the inner embedding: its table, fields and rows."""
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
