"""EulerNet: features as complex numbers; a cross of learned orders is a sum of logarithms and of angles.

Reference: Tian et al., "EulerNet: Adaptive Feature Interaction Learning via Euler's Formula for CTR
Prediction", SIGIR 2023. Its layers, initial orders, layer normalization and dropout are those of the authors'
code (also in FuxiCTR). Departs from that code in the angles that the first layer reads, the embeddings, and
half a circle more where a modulus is below 0: they are not brought back into (-pi, pi], and so never jump; in
initial values, small weights of the output; and in the sizes, which are ours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.embedding import EMBEDDING_STD, FeaturesEmbedding
from models.fields import Field
from models.hyperparameters import check_widths
from models.layers import Dropout

SMALLEST = 1e-8  # of a squared modulus, which has a logarithm
SHARPNESS = 100.0
OUTPUT_STD = 0.05

Pair = tuple[Tensor, Tensor]


class EulerInteraction(nn.Module):
    """Complex numbers z_j -> for each order vector a_k an explicit and an implicit cross, and their sum.

    Explicit: the product over j of z_j^a_kj. The logarithm of its modulus is the sum of a_kj ln |z_j| plus a
    bias, and its angle is the sum of a_kj arg z_j plus another. Implicit: relu(W x + d) for the real and for
    the imaginary parts x of all z_j, with the same W and d.
    """

    def __init__(self, n_inputs: int, n_orders: int, dim: int, dropout: float, *, layer_norm: bool) -> None:
        super().__init__()
        # An order vector starts as a single feature, and with as many of them as inputs, each as its own.
        start = torch.eye(n_orders) if n_orders == n_inputs else _single_features(n_orders, n_inputs)
        self.orders = nn.Parameter(start)
        self.log_bias, self.angle_bias = (
            nn.Parameter(torch.randn(n_orders, dim) * EMBEDDING_STD) for _ in range(2)
        )
        self.implicit = nn.Linear(n_inputs * dim, n_orders * dim)
        nn.init.xavier_uniform_(self.implicit.weight)
        self.dropout = Dropout(dropout)
        self.normalize = nn.ModuleList(nn.LayerNorm(dim) if layer_norm else nn.Identity() for _ in range(2))

    def forward(self, parts: Pair, polar: Pair) -> Pair:
        """Real and imaginary parts, and logarithms of moduli and angles -> real and imaginary parts.

        Inputs are [batch, n_inputs, dim], or for the logarithms anything that broadcasts to it; outputs are
        [batch, n_orders, dim].
        """
        logs, angles = map(self.dropout, polar)
        modulus = torch.exp(self.orders @ logs + self.log_bias)
        angle = self.orders @ angles + self.angle_bias  # [batch, n_orders, dim]
        real, imaginary = modulus * torch.cos(angle), modulus * torch.sin(angle)
        return self._with_implicit(0, parts[0], real), self._with_implicit(1, parts[1], imaginary)

    def _with_implicit(self, number: int, part: Tensor, explicit: Tensor) -> Tensor:
        implicit = torch.relu(self.implicit(self.dropout(part).flatten(1)))
        summed: Tensor = self.normalize[number](implicit.reshape(-1, *explicit.shape[1:]) + explicit)
        return summed


class EulerNet(nn.Module):
    """w . (r + p) with the real parts r and imaginary parts p of the last layer.

    A feature is m_j exp(i e_j), with its embedding e_j as the angle and a modulus m_j for each field.

    order_vectors  how many crosses each layer has
    layer_norm     whether real and imaginary parts are normalized after each layer
    """

    def __init__(
        self,
        fields: Sequence[Field],
        dim: int = 10,
        order_vectors: Sequence[int] = (32,),
        dropout: float = 0.1,
        layer_norm: bool = True,
    ) -> None:
        super().__init__()
        check_widths("order_vectors", order_vectors, "they are the crosses of its layers", layers=1)
        self.fields = tuple(fields)
        self.embedding = FeaturesEmbedding(fields, dim)
        self.modulus = nn.Parameter(torch.ones(len(fields), 1))
        sizes = (len(fields), *order_vectors)
        self.layers = nn.ModuleList(
            EulerInteraction(sizes[depth], size, dim, dropout, layer_norm=layer_norm)
            for depth, size in enumerate(order_vectors)
        )
        self.output = nn.Linear(sizes[-1] * dim, 1, bias=False)
        # Normalized values are of unit size for any row; the logits of a new model are near its bias.
        nn.init.normal_(self.output.weight, std=OUTPUT_STD / self.output.in_features**0.5)
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, ids: Tensor) -> Tensor:
        """ids [batch, columns] -> logits [batch]."""
        embeddings = self.embedding(ids)  # [batch, n_fields, dim]
        parts = self.modulus * torch.cos(embeddings), self.modulus * torch.sin(embeddings)
        polar = self._polar(embeddings)
        for depth, layer in enumerate(self.layers):
            parts = layer(parts, polar if depth == 0 else polar_form(parts))
        logits: Tensor = self.bias + self.output((parts[0] + parts[1]).flatten(1)).squeeze(1)
        return logits

    def _polar(self, embeddings: Tensor) -> Pair:
        """Features as logarithms of their moduli and angles; a modulus below 0 turns by half a circle."""
        logs = 0.5 * torch.log(self.modulus.square() + SMALLEST)
        angles = embeddings + math.pi * (self.modulus < 0).to(embeddings.dtype)
        # They are the same for all rows; what dropout leaves of them is not.
        return logs.expand_as(angles) if self.training else logs, angles


def polar_form(parts: Pair) -> Pair:
    """Real and imaginary parts -> logarithms of moduli, and angles in (-pi, pi]; all of one shape."""
    real, imaginary = parts
    logs = 0.5 * torch.log(real.square() + imaginary.square() + SMALLEST)
    return logs, torch.atan2(imaginary, real)


def _single_features(n_orders: int, n_inputs: int) -> Tensor:
    """[n_orders, n_inputs]: in each row almost 1 for a random input, almost 0 for the others."""
    return torch.softmax(torch.randn(n_orders, n_inputs) * SHARPNESS, dim=1)
