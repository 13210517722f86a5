"""AutoInt: fields that attend to each other; with a perceptron beside them, AutoInt+.

Reference: Song et al., "AutoInt: Automatic Feature Interaction Learning via Self-Attentive Neural Networks",
CIKM 2019, eq. 5 to 9, with its three layers of two heads, 32 numbers a head. By default it is AutoInt+ with
the other models' perceptron; `hidden_units=()` leaves AutoInt alone. Follows the equations where the authors'
code adds to them (ReLU on queries, keys and values, scaled scores, normalised layers).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.embedding import FeaturesEmbedding
from models.fields import Field
from models.layers import MLP


class InteractingLayer(nn.Module):
    """Multi-head self-attention over the fields, plus W_Res e, through a ReLU (eq. 5 to 8).

    Two ways that look cheaper are not: one product with all four matrices, cut in four, takes a third longer
    forward and backward at 2048 rows, and heads as an axis of their own cost copies, which cutting does not.
    """

    def __init__(self, dim: int, heads: int, attention_dim: int, scaled: bool = False) -> None:
        super().__init__()
        for name, value in (("heads", heads), ("attention_dim", attention_dim)):
            if value < 1:
                raise ValueError(
                    f"'{name}' must be at least 1 (got {value!r}); attention needs a head of size 1"
                )
        self.heads, self.attention_dim = heads, attention_dim
        self.out_features = heads * attention_dim
        self.scale = attention_dim**-0.5 if scaled else 1.0
        self.query, self.key, self.value, self.residual = (
            nn.Linear(dim, self.out_features, bias=False) for _ in range(4)
        )

    def forward(self, embeddings: Tensor) -> Tensor:
        """embeddings [batch, n_fields, dim] -> [batch, n_fields, heads * attention_dim]."""
        projected = (self.query(embeddings) * self.scale, self.key(embeddings), self.value(embeddings))
        by_head = zip(
            *(torch.split(vectors, self.attention_dim, dim=2) for vectors in projected), strict=True
        )
        attended = [(query @ key.transpose(1, 2)).softmax(dim=2) @ value for query, key, value in by_head]
        return torch.relu(torch.cat(attended, dim=2) + self.residual(embeddings))


class AutoInt(nn.Module):
    """w . [interacting layers(e)] + perceptron(e)."""

    def __init__(
        self,
        fields: Sequence[Field],
        dim: int = 10,
        hidden_units: Sequence[int] = (400, 400, 400),
        dropout: float = 0.5,
        attention_layers: int = 3,
        heads: int = 2,
        attention_dim: int = 32,
    ) -> None:
        super().__init__()
        if attention_layers < 1:
            raise ValueError(
                f"'attention_layers' must be at least 1 (got {attention_layers!r}); AutoInt is these layers"
            )
        self.fields = tuple(fields)
        self.embedding = FeaturesEmbedding(fields, dim)
        widths = [dim, *[heads * attention_dim] * (attention_layers - 1)]
        self.interacting = nn.Sequential(*(InteractingLayer(width, heads, attention_dim) for width in widths))
        self.output = nn.Linear(len(fields) * heads * attention_dim, 1, bias=False)
        self.mlp = MLP(len(fields) * dim, hidden_units, dropout) if hidden_units else None
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, ids: Tensor) -> Tensor:
        """ids [batch, columns] -> logits [batch]."""
        embeddings = self.embedding(ids)  # [batch, n_fields, dim]
        logits: Tensor = self.bias + self.output(self.interacting(embeddings).flatten(1)).squeeze(1)
        return logits if self.mlp is None else logits + self.mlp(embeddings.flatten(1))
