"""DCN: a cross network and a perceptron side by side.

Reference: Wang et al., "Deep & Cross Network for Ad Click Predictions", ADKDD 2017, eq. 3 to 5, with the 6
cross layers that were best on Criteo. Departs from it in the embeddings, which all have one dimension (there
6 cardinality^(1/4)), and in the perceptron: dropout instead of batch normalisation, and the widths of the
other models here, so that models differ in their interactions only (there two layers of 1024).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.embedding import FeaturesEmbedding
from models.fields import Field
from models.hyperparameters import check_count
from models.layers import MLP


class CrossNetwork(nn.Module):
    """Cross layers x_{l+1} = x_0 (x_l . w_l) + b_l + x_l, and the vector w of the logit w . x_L (eq. 3, 5).

    By induction x_l = a_l x_0 + c_l, with a scalar a_l for each row and a vector c_l shared by all rows: a_0
    = 1, c_0 = 0, a_{l+1} = a_l (1 + x_0 . w_l) + c_l . w_l and c_{l+1} = c_l + b_l. So one product of x_0
    with all w computes all layers, and no vector x_l is stored.
    """

    def __init__(self, width: int, cross_layers: int) -> None:
        super().__init__()
        check_count("cross_layers", cross_layers, 1, "without any, DCN is a perceptron")
        self.weight = nn.Parameter(torch.empty(cross_layers, width))
        self.bias = nn.Parameter(torch.zeros(cross_layers, width))
        self.output = nn.Parameter(torch.empty(width, 1))
        nn.init.uniform_(self.weight, -(width**-0.5), width**-0.5)
        nn.init.uniform_(self.output, -(width**-0.5), width**-0.5)

    def forward(self, inputs: Tensor) -> Tensor:
        """inputs x_0 [batch, width] -> w . x_L [batch]."""
        factors = torch.split(1.0 + inputs @ self.weight.T, 1, dim=1)  # of each layer [batch, 1]
        shared = self.bias.cumsum(dim=0)  # c_1 to c_L, [cross_layers, width]
        steps = (shared[:-1] * self.weight[1:]).sum(dim=1)  # c_l . w_l from the second layer on
        scale = factors[0]
        for layer, factor in enumerate(factors[1:]):
            scale = scale * factor + steps[layer]
        logits: Tensor = scale * (inputs @ self.output) + shared[-1] @ self.output  # [batch, 1]
        return logits.squeeze(1)


class DCN(nn.Module):
    """[cross network(x_0), perceptron(x_0)] . w + b, where x_0 is the concatenation of the embeddings."""

    def __init__(
        self,
        fields: Sequence[Field],
        dim: int = 10,
        hidden_units: Sequence[int] = (400, 400, 400),
        dropout: float = 0.5,
        cross_layers: int = 6,
    ) -> None:
        super().__init__()
        self.fields = tuple(fields)
        self.embedding = FeaturesEmbedding(fields, dim)
        self.cross = CrossNetwork(len(fields) * dim, cross_layers)
        self.mlp = MLP(len(fields) * dim, hidden_units, dropout)
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, ids: Tensor) -> Tensor:
        """ids [batch, columns] -> logits [batch]."""
        inputs = self.embedding(ids).flatten(1)  # [batch, n_fields * dim]
        logits: Tensor = self.bias + self.cross(inputs) + self.mlp(inputs)
        return logits
