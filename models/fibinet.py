"""FiBiNET: bilinear products of the fields, unweighted and weighted by squeeze-and-excitation (SENET).

Reference: Huang et al., "FiBiNET: Combining Feature Importance and Bilinear feature Interaction for Click-
Through Rate Prediction", RecSys 2019, its deep form with a linear term; widths, dropout and reduction ratio
are its own. Departs from it in SENET's last activation, which its formula does not specify: a sigmoid, as in
Hu et al., "Squeeze-and-Excitation Networks", CVPR 2018, because a ReLU can zero a field permanently. The
unweighted and the weighted products share their matrices. Most of the time is in the perceptron's first
layer, which reads n_fields * (n_fields - 1) * dim inputs.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from models.embedding import FeaturesEmbedding, LinearTerm
from models.fields import Field
from models.hyperparameters import check_at_least, check_choice
from models.layers import MLP, checked_pairs

Bilinear = Literal["all", "each", "interaction"]


class SENET(nn.Module):
    """The weights of the fields for each row: sigmoid(W_2 relu(W_1 z)), where z_i is the mean of e_i."""

    def __init__(self, n_fields: int, reduction_ratio: float) -> None:
        super().__init__()
        check_at_least("reduction_ratio", reduction_ratio, 1, "it divides the width of the squeezed layer")
        squeezed = max(1, int(n_fields / reduction_ratio))
        self.squeeze = nn.Linear(n_fields, squeezed, bias=False)
        self.excite = nn.Linear(squeezed, n_fields, bias=False)

    def forward(self, embeddings: Tensor) -> Tensor:
        """embeddings [batch, n_fields, dim] -> weights [batch, n_fields]."""
        means = embeddings.sum(dim=2) / embeddings.shape[2]
        return torch.sigmoid(self.excite(torch.relu(self.squeeze(means))))


class BilinearInteraction(nn.Module):
    """p_ij = (e_i W) * e_j for pairs i < j, with one W for all, for each field i, or for each pair."""

    left: Tensor
    right: Tensor

    def __init__(
        self, n_fields: int, dim: int, bilinear: Bilinear, pairs: Sequence[tuple[int, int]] | None = None
    ) -> None:
        super().__init__()
        check_choice("bilinear", bilinear, get_args(Bilinear), "it says which pairs share a matrix")
        if n_fields < 2:
            raise ValueError(f"'fields' must be at least two (got {n_fields}); a product needs a pair")
        self.each_pair = bilinear == "interaction"
        self.pairs = checked_pairs(n_fields, pairs)
        if not self.pairs:
            raise ValueError("'pairs' must be at least one (got none); their products are all that is read")
        matrices = {"all": 1, "each": n_fields - 1, "interaction": len(self.pairs)}[bilinear]
        self.weight = nn.Parameter(torch.empty(matrices, dim, dim))
        nn.init.uniform_(self.weight, -((3 / dim) ** 0.5), (3 / dim) ** 0.5)
        ends = torch.tensor(self.pairs, dtype=torch.int64)
        self.register_buffer("left", ends[:, 0].contiguous(), persistent=False)
        self.register_buffer("right", ends[:, 1].contiguous(), persistent=False)

    def forward(self, embeddings: Tensor) -> Tensor:
        """embeddings [batch, n_fields, dim] -> [batch, n_pairs, dim]; fields come first for the gather."""
        by_field = embeddings.transpose(0, 1)
        if self.each_pair:
            mapped = by_field.index_select(0, self.left) @ self.weight
        elif len(self.weight) > 1:
            mapped = (by_field[:-1] @ self.weight).index_select(0, self.left)
        else:
            mapped = (embeddings[:, :-1] @ self.weight[0]).transpose(0, 1).index_select(0, self.left)
        return (mapped * by_field.index_select(0, self.right)).transpose(0, 1)

    def folded(self) -> nn.Module:
        """For inference: a linear layer a field, where there are several matrices."""
        return BilinearByField(self) if len(self.weight) > 1 else self


class BilinearByField(nn.Module):
    """The function of a BilinearInteraction in linear layers: field i maps e_i for all its pairs at once.

    These products are fewer and larger than one a pair, so they are faster, and wide ones can be INT8.
    """

    left: Tensor
    right: Tensor

    def __init__(self, source: BilinearInteraction) -> None:
        super().__init__()
        self.each_pair, self.dim = source.each_pair, source.weight.shape[1]
        self.register_buffer("left", source.left, persistent=False)
        self.register_buffer("right", source.right, persistent=False)
        runs = [(field, len(list(run))) for field, run in itertools.groupby(source.left.tolist())]
        if not source.each_pair:
            runs = [(field, 1) for field in range(len(source.weight))]
        self.mapped, self.n_mapped = [field for field, _ in runs], len(source.weight)
        parts = torch.split(source.weight.detach(), [count for _, count in runs])
        self.maps = nn.ModuleList(map(_joined, parts))

    def forward(self, embeddings: Tensor) -> Tensor:
        """embeddings [batch, n_fields, dim] -> [batch, n_pairs, dim]."""
        vectors = torch.split(embeddings.flatten(1), self.dim, dim=1)
        maps = zip(self.maps, self.mapped, strict=True)
        mapped = torch.cat([each(vectors[field]) for each, field in maps], dim=1)
        mapped = mapped.reshape(-1, self.n_mapped, self.dim)
        if not self.each_pair:
            mapped = mapped.index_select(1, self.left)
        return mapped * embeddings.index_select(1, self.right)


def _joined(matrices: Tensor) -> nn.Linear:
    """x @ matrix for each of matrices [n, in, out], side by side: [batch, in] -> [batch, n * out]."""
    n, fan_in, fan_out = matrices.shape
    joined = nn.Linear(fan_in, n * fan_out, bias=False, device="meta")  # draws no random numbers
    joined.weight = nn.Parameter(matrices.transpose(1, 2).reshape(n * fan_out, fan_in).clone())
    return joined


class FiBiNET(nn.Module):
    """Linear term + perceptron([p, q]): p_ij products of e, q_ij = a_i a_j p_ij those of SENET's a_i e_i.

    pairs  those that have products; None: all
    """

    def __init__(
        self,
        fields: Sequence[Field],
        dim: int = 10,
        hidden_units: Sequence[int] = (400, 400, 400),
        dropout: float = 0.5,
        reduction_ratio: float = 3.0,
        bilinear: Bilinear = "interaction",
        pairs: Sequence[tuple[int, int]] | None = None,
    ) -> None:
        super().__init__()
        self.fields = tuple(fields)
        self.embedding = FeaturesEmbedding(fields, dim)
        self.wide = LinearTerm(fields)
        self.senet = SENET(len(fields), reduction_ratio)
        self.bilinear = BilinearInteraction(len(fields), dim, bilinear, pairs)
        self.mlp = MLP(2 * len(self.bilinear.pairs) * dim, hidden_units, dropout)
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, ids: Tensor) -> Tensor:
        """ids [batch, columns] -> logits [batch]."""
        embeddings = self.embedding(ids)  # [batch, n_fields, dim]
        products = self.bilinear(embeddings)  # [batch, n_pairs, dim]
        weights = self.senet(embeddings).T  # [n_fields, batch]
        left, right = self.bilinear.left, self.bilinear.right
        of_pairs = weights.index_select(0, left) * weights.index_select(0, right)  # [n_pairs, batch]
        both = torch.cat([products, products * of_pairs.T.unsqueeze(2)], dim=1)  # [batch, 2 * n_pairs, dim]
        logits: Tensor = self.bias + self.wide(ids) + self.mlp(both.flatten(1))
        return logits
