"""PNN: a perceptron whose first layer reads the embeddings and the products of their pairs.

Reference: Qu et al., "Product-based Neural Networks for User Response Prediction", ICDM 2016, section III;
layers as in DeepLight's comparison (section 5.1.4), k = 10 and dropout as in the paper. Departs from it in
the inner products' weights: one for each pair i < j, as in the authors' code, where the paper uses a rank-one
matrix theta theta^T per unit, which is cheaper, but whose term is a square and never negative. The outer
product is the paper's superposition, dim * dim signals whatever the number of fields; common implementations
(DeepCTR, pytorch-fm) learn a kernel for each pair instead: f_i^T K_ij f_j, one signal a pair.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from models.embedding import FeaturesEmbedding
from models.fields import Field
from models.hyperparameters import check_choice
from models.layers import MLP, InnerProducts

Product = Literal["inner", "outer", "both"]


class OuterProduct(nn.Module):
    """f f^T with f the sum of all embeddings: it equals the sum of f_i f_j^T over all i and j."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.out_features = dim * dim

    def forward(self, embeddings: Tensor) -> Tensor:
        """embeddings [batch, n_fields, dim] -> [batch, dim * dim]."""
        total = embeddings.sum(dim=1)
        return (total.unsqueeze(2) * total.unsqueeze(1)).flatten(1)


class PNN(nn.Module):
    """MLP(z, p): z the linear signal (all embeddings), p the quadratic one.

    product  `inner`: p_ij = <f_i, f_j>, one number a pair (IPNN). `outer`: p = f f^T with f the sum of all
             embeddings, the superposition of all outer products (OPNN). `both`: one after the other
    pairs    those that have an inner product; None: all
    """

    def __init__(
        self,
        fields: Sequence[Field],
        dim: int = 10,
        hidden_units: Sequence[int] = (400, 400, 400),
        dropout: float = 0.5,
        product: Product = "inner",
        pairs: Sequence[tuple[int, int]] | None = None,
    ) -> None:
        super().__init__()
        check_choice("product", product, get_args(Product), "it says which product of the pairs is used")
        self.fields = tuple(fields)
        self.embedding = FeaturesEmbedding(fields, dim)
        products: list[InnerProducts | OuterProduct] = []
        if product != "outer":
            products.append(InnerProducts(len(fields), pairs))
        if product != "inner":
            products.append(OuterProduct(dim))
        self.products = nn.ModuleList(products)
        # The product layer is the perceptron's first: W_z z + W_p p + b_1 is one affine map of (z, p).
        signals = len(fields) * dim + sum(layer.out_features for layer in products)
        self.mlp = MLP(signals, hidden_units, dropout)
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, ids: Tensor) -> Tensor:
        """ids [batch, columns] -> logits [batch]."""
        embeddings = self.embedding(ids)  # [batch, n_fields, dim]
        quadratic = [layer(embeddings) for layer in self.products]
        logits: Tensor = self.bias + self.mlp(torch.cat([embeddings.flatten(1), *quadratic], dim=1))
        return logits
