"""DCNv3, now FCN: two cross networks, whose degree doubles or grows by one with each layer; no perceptron.

Reference: Li et al., "DCNv3: Towards Next Generation Deep Cross Network for Click-Through Rate Prediction",
arXiv 2407.13349, with its self-mask; `second_half=affine` is the low-cost aggregation of the version for KDD
2026, "FCN: Fusing Exponential and Linear Cross Network", in its parallel form. Sizes, dropout and biases that
start uniform in [0, 1) are those of the authors' code. Departs from it in the loss, which is that of the
mean of both logits: Tri-BCE adds each network's own, and models here see no labels. For an odd dim the first
halves of the embeddings are the longer ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from models.embedding import FeaturesEmbedding
from models.fields import Field
from models.hyperparameters import check_choice, check_count
from models.layers import Dropout
from models.low_rank import init_xavier, linear_map

SecondHalf = Literal["self_mask", "affine"]


class SelfMask(nn.Module):
    """c * max(0, LayerNorm(c)): entries of the cross vector below its mean are masked."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.normalize = nn.LayerNorm(width)

    def forward(self, crossing: Tensor) -> Tensor:
        """crossing [batch, width] -> [batch, width]."""
        return crossing * torch.relu(self.normalize(crossing))


class Affine(nn.Module):
    """gamma * c + beta, element by element."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, crossing: Tensor) -> Tensor:
        """crossing [batch, width] -> [batch, width]."""
        return self.weight * crossing + self.bias


class CrossLayer(nn.Module):
    """a * ([c, g(c)] + b) + x with the cross vector c = W x, half as long as x, and g the second half."""

    def __init__(self, first: int, second: int, second_half: SecondHalf, rank: int | None = None) -> None:
        super().__init__()
        self.second = second
        self.cross = linear_map(first + second, first, rank, bias=False)
        init_xavier(self.cross)
        self.derive = SelfMask(second) if second_half == "self_mask" else Affine(second)
        self.bias = nn.Parameter(torch.empty(first + second))
        nn.init.uniform_(self.bias)

    def forward(self, inputs: Tensor, anchor: Tensor) -> Tensor:
        """inputs x and anchor a [batch, first + second] -> [batch, first + second]."""
        crossing = self.cross(inputs)  # [batch, first]
        halves = torch.cat([crossing, self.derive(crossing[:, : self.second])], dim=1)
        crossed: Tensor = anchor * (halves + self.bias) + inputs
        return crossed


class CrossNetwork(nn.Module):
    """w . x_L of cross layers with dropout; their anchor is x_l (`exponential`) or always x_0.

    x_l is a polynomial of degree 2^l of x_0 with anchor x_l, and of degree l + 1 with anchor x_0, apart from
    what the self-mask adds.
    """

    def __init__(self, layers: Sequence[CrossLayer], dropout: float, *, exponential: bool) -> None:
        super().__init__()
        self.layers, self.exponential = nn.ModuleList(layers), exponential
        self.dropout = Dropout(dropout)
        self.output = nn.Linear(layers[0].bias.shape[0], 1, bias=False)

    def forward(self, inputs: Tensor) -> Tensor:
        """inputs x_0 [batch, width] -> logits [batch]."""
        crossed = inputs
        for layer in self.layers:
            crossed = self.dropout(layer(crossed, crossed if self.exponential else inputs))
        logits: Tensor = self.output(crossed).squeeze(1)
        return logits


class DCNV3(nn.Module):
    """The mean of two cross networks, which read the first halves of all embeddings, then the second.

    second_half  what follows the cross vector: itself, masked by itself (`self_mask`), or scaled (`affine`)
    rank         of the matrices W; None, as in the paper: full
    """

    def __init__(
        self,
        fields: Sequence[Field],
        dim: int = 10,
        exponential_layers: int = 3,
        linear_layers: int = 3,
        dropout: float = 0.1,
        second_half: SecondHalf = "self_mask",
        rank: int | None = None,
    ) -> None:
        super().__init__()
        for name, value in (("exponential_layers", exponential_layers), ("linear_layers", linear_layers)):
            check_count(name, value, 1, "a network needs a layer")
        check_choice("second_half", second_half, get_args(SecondHalf), "it says what follows a cross vector")
        self.fields, self.cut = tuple(fields), (dim + 1) // 2
        self.embedding = FeaturesEmbedding(fields, dim)
        first, second = len(fields) * self.cut, len(fields) * (dim - self.cut)

        def network(depth: int, *, exponential: bool) -> CrossNetwork:
            layers = [CrossLayer(first, second, second_half, rank) for _ in range(depth)]
            return CrossNetwork(layers, dropout, exponential=exponential)

        self.exponential = network(exponential_layers, exponential=True)
        self.linear = network(linear_layers, exponential=False)
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, ids: Tensor) -> Tensor:
        """ids [batch, columns] -> logits [batch]."""
        embeddings = self.embedding(ids)  # [batch, n_fields, dim]
        halves = embeddings[:, :, : self.cut], embeddings[:, :, self.cut :]
        inputs = torch.cat([half.flatten(1) for half in halves], dim=1)  # [batch, n_fields * dim]
        logits: Tensor = self.bias + 0.5 * (self.exponential(inputs) + self.linear(inputs))
        return logits
