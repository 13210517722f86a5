"""xDeepInt: a polynomial of the embeddings, built layer by layer, without a perceptron.

Reference: Yan & Li, "xDeepInt: a hybrid architecture for modeling the vector-wise and bit-wise feature
interactions", DLP-KDD 2020; eq. 2 and 3 of Yan & Li, "DynInt", DLP-KDD 2022, where it is the static base of
the dynamic models. Defaults: 3 layers, "generally a good choice" there, and the dimension 16 of its section
4.1.4. Departs from it in the bias of eq. 2, which is added once, not once per dimension.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.embedding import FeaturesEmbedding
from models.fields import Field
from models.low_rank import init_xavier, linear_map
from models.polynomial_interaction import FieldOutput, check_depth, crossed


class PolynomialInteraction(nn.Module):
    """The PIN layer, eq. 3: X_l = X_{l-1} o (W_{l-1} X_0) + X_{l-1}, one degree more than X_{l-1}."""

    def __init__(self, parts: int, rank: int | None) -> None:
        super().__init__()
        self.mixing = linear_map(parts, parts, rank, bias=False)  # its weight is W_{l-1}
        init_xavier(self.mixing)

    def forward(self, x: Tensor, x0: Tensor) -> Tensor:
        """x = X_{l-1} and x0 = X_0, both [batch, depth, parts] -> X_l of the same shape."""
        interactions: Tensor = x * self.mixing(x0)
        return interactions + x


class XDeepInt(nn.Module):
    """The output layer on the feature map after `layers` PIN layers: interactions up to degree layers + 1.

    rank  of the matrices W; None, as in the paper: full
    """

    def __init__(
        self,
        fields: Sequence[Field],
        dim: int = 16,
        layers: int = 3,
        sub_spaces: int = 4,
        rank: int | None = None,
    ) -> None:
        super().__init__()
        check_depth(layers, dim, sub_spaces)
        self.fields, self.sub_spaces = tuple(fields), sub_spaces
        self.embedding = FeaturesEmbedding(fields, dim)
        parts = len(fields) * sub_spaces
        self.layers = nn.ModuleList(PolynomialInteraction(parts, rank) for _ in range(layers))
        self.output = FieldOutput(len(fields), sub_spaces)
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, ids: Tensor) -> Tensor:
        """ids [batch, columns] -> logits [batch]."""
        x = x0 = crossed(self.embedding(ids), self.sub_spaces)  # [batch, depth, parts]
        for layer in self.layers:
            x = layer(x, x0)
        logits: Tensor = self.bias + self.output(x)
        return logits
