"""BST: a transformer over a user's history and the ad.

Reference: Chen et al., "Behavior Sequence Transformer for E-commerce Recommendation in Alibaba", DLP-KDD
2019, with a position beside each embedding. Departs from it in positions, which are places in the history and
not times, and start as sines; in attention without biases; in the perceptron's ReLU; in the sizes, which are
ours; and by default in `outputs`: there the perceptron reads what the transformer computes for all elements,
here only what it computes for the ad. So the last layer computes keys and values of the history and no more,
and with one layer they depend on the request alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.embedding import EMBEDDING_STD, FeaturesEmbedding
from models.fields import PADDING_ID, Field
from models.histories import find_histories, with_histories
from models.hyperparameters import check_choice, check_count
from models.layers import MLP, Dropout

Outputs = Literal["ad", "mean", "all"]
ABSENT = -1e4  # added to a score, it makes the weight of a place without an element exactly 0
LONGEST_WAVE = 10_000.0


class Attention(nn.Module):
    """Scaled dot-product attention with heads side by side: [head_1, ..] W_O, softmax(Q K^T / sqrt(d)) V."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.share = int(width // heads)
        self.query, self.key, self.value, self.output = (
            nn.Linear(width, width, bias=False) for _ in range(4)
        )

    def forward(self, asking: Tensor, sequence: Tensor, absent: Tensor) -> Tensor:
        """asking [batch, n, width] -> the same shape.

        sequence [batch, length, width] is what it attends to; absent [batch, 1, length] is added to scores.
        """
        projected = (self.query(asking) * self.share**-0.5, self.key(sequence), self.value(sequence))
        by_head = zip(*(torch.split(vectors, self.share, dim=2) for vectors in projected), strict=True)
        attended = [
            (query @ key.transpose(1, 2) + absent).softmax(dim=2) @ value for query, key, value in by_head
        ]
        combined: Tensor = self.output(torch.cat(attended, dim=2))
        return combined


class TransformerLayer(nn.Module):
    """s = LayerNorm(x + attention(x)), LayerNorm(s + W_2 leaky_relu(W_1 s + b_1) + b_2)."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attention = Attention(width, heads)
        self.inner, self.outer = nn.Linear(width, width), nn.Linear(width, width)
        self.after_attention, self.after_layer = nn.LayerNorm(width), nn.LayerNorm(width)
        self.dropout = Dropout(dropout)

    def forward(self, asking: Tensor, sequence: Tensor, absent: Tensor) -> Tensor:
        """As Attention; `asking` holds those elements of the sequence whose outputs are wanted."""
        attended = self.dropout(self.attention(asking, sequence, absent))
        found = self.after_attention(asking + attended)
        fed: Tensor = self.outer(F.leaky_relu(self.inner(found)))
        outputs: Tensor = self.after_layer(found + self.dropout(fed))
        return outputs


class BehaviorTransformer(nn.Module):
    """One history and the ad, each with its position, through transformer layers."""

    def __init__(
        self, length: int, dim: int, layers: int, heads: int, dropout: float, outputs: Outputs
    ) -> None:
        super().__init__()
        self.positions = nn.Parameter(waves(length + 1, dim))
        self.layers = nn.ModuleList(TransformerLayer(2 * dim, heads, dropout) for _ in range(layers))
        self.outputs = outputs
        self.out_features = 2 * dim * (length + 1 if outputs == "all" else 1)

    def forward(self, elements: Tensor, target: Tensor, present: Tensor) -> Tensor:
        """elements [batch, length, dim], target [batch, dim], present [batch, length] of 0.0 and 1.0.

        -> [batch, out_features].
        """
        vectors = torch.cat([elements, target.unsqueeze(1)], dim=1)  # [batch, length + 1, dim]
        sequence = torch.cat([vectors, self.positions.expand_as(vectors)], dim=2)
        counted = torch.cat([present, torch.ones_like(present[:, :1])], dim=1)
        absent = ((1.0 - counted) * ABSENT).unsqueeze(1)
        last = len(self.layers) - 1
        for depth, layer in enumerate(self.layers):
            asking = sequence[:, -1:] if depth == last and self.outputs == "ad" else sequence
            sequence = layer(asking, sequence, absent)
        if self.outputs == "mean":
            shares = counted / counted.sum(dim=1, keepdim=True)
            return (shares.unsqueeze(1) @ sequence).squeeze(1)
        return sequence.flatten(1)


class BST(nn.Module):
    """MLP([the other fields, for each history what a transformer makes of it and of the ad]).

    `target` names the ad's field for histories without `same_values_as`.

    layers   of each transformer
    heads    of each layer's attention
    outputs  what the perceptron reads of a transformer: the ad's output (`ad`), the mean over the ad and the
             elements that are there (`mean`), or one beside the other (`all`)
    """

    def __init__(
        self,
        fields: Sequence[Field],
        dim: int = 10,
        hidden_units: Sequence[int] = (200, 80),
        dropout: float = 0.1,
        layers: int = 1,
        heads: int = 2,
        outputs: Outputs = "ad",
        target: str | None = None,
    ) -> None:
        super().__init__()
        check_count("layers", layers, 1, "a transformer needs a layer")
        check_count("heads", heads, 1, "attention needs a head")
        check_choice("outputs", outputs, get_args(Outputs), "it says what the perceptron reads")
        self.fields = tuple(fields)
        self.histories = find_histories(fields, target)
        self.embedding = FeaturesEmbedding(fields, dim)
        if 2 * dim % heads:
            raise ValueError(
                f"'heads' must divide {2 * dim}, an embedding and a position (got {heads!r}); "
                "change it or 'dim'"
            )
        transformers = [
            BehaviorTransformer(fields[history.position].width, dim, layers, heads, dropout, outputs)
            for history in self.histories
        ]
        self.transformers = nn.ModuleList(transformers)
        interests = sum(int(each.out_features) for each in transformers)
        width = (len(fields) - len(transformers)) * dim + interests
        self.mlp = MLP(width, hidden_units, dropout)
        # Normalized values are of unit size for any row; the logits of a new model are near its bias.
        nn.init.normal_(self.mlp.output.weight, std=EMBEDDING_STD)

    def forward(self, ids: Tensor) -> Tensor:
        """ids [batch, columns] -> logits [batch]."""
        rows = self.embedding.rows(ids)  # [batch, columns, dim]
        interests = []
        for history, transformer in zip(self.histories, self.transformers, strict=True):
            present = (ids[:, history.columns] != PADDING_ID).to(rows.dtype)
            interests.append(transformer(rows[:, history.columns], rows[:, history.target], present))
        inputs = with_histories(self.fields, self.histories, ids, rows, interests)
        logits: Tensor = self.mlp(inputs)
        return logits


def waves(length: int, dim: int) -> Tensor:
    """[length, dim]: sines and cosines of the place, each pair with a longer wave, as in a transformer.

    Reference: Vaswani et al., "Attention Is All You Need", NeurIPS 2017, section 3.5.
    """
    places = torch.arange(length).unsqueeze(1)
    angles = places / LONGEST_WAVE ** (torch.arange(0, dim, 2) / dim)  # [length, ceil(dim / 2)]
    return torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1)[:, :dim]
