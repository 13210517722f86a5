"""xDeepFM: a linear term, a compressed interaction network (CIN) and a perceptron.

Reference: Lian et al., "xDeepFM: Combining Explicit and Implicit Feature Interactions for Recommender
Systems", KDD 2018, eq. 6 to 9, with the identity as CIN's activation, which it found best. Departs from it in
CIN's size, two layers of 64 maps (100 or 200 per layer there; a layer costs dim * maps * maps * n_fields
multiplications per row), and in dropout (an L2 penalty there). `split_half`, from the authors' code, passes
the first half of a layer's maps to the next layer and the other half to the output.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.embedding import FeaturesEmbedding, LinearTerm
from models.fields import Field
from models.hyperparameters import check_widths
from models.layers import MLP


class CIN(nn.Module):
    """Maps X^k_h = sum over i, j of W^kh_ij X^{k-1}_i * X^0_j (eq. 6), pooled over dim, weighted (eq. 7, 8).

    The output needs no maps: with the identity as activation, the weighted pooled maps of a layer are the sum
    over i, j of A^k_ij <X^{k-1}_i, X^0_j> with A^k = sum over h of w_kh W^kh, one small matrix product per
    row for any number of maps. Only the maps that the next layer reads are computed, as one product with the
    outer products of X^{k-1} and X^0, whose shape [batch, dim, maps, n_fields] needs the most memory.
    """

    def __init__(self, n_fields: int, maps: Sequence[int], split_half: bool) -> None:
        super().__init__()
        remedy = "it is the number of maps of the layer, of which the next layer may read half"
        check_widths("cin_maps", maps, remedy, least=1 + split_half, layers=1)
        hidden = [size // 2 if split_half else size for size in maps[:-1]]
        direct = [size // 2 if split_half else 0 for size in maps[:-1]] + [0]
        self.hidden, self.first_pooled = hidden, direct
        heights = zip(maps, [n_fields, *hidden], strict=True)
        self.weights = nn.ParameterList(torch.empty(size, below, n_fields) for size, below in heights)
        self.outputs = nn.ParameterList(
            torch.empty(size - first) for size, first in zip(maps, direct, strict=True)
        )
        pooled = sum(output.numel() for output in self.outputs)
        for weight in self.weights:
            nn.init.xavier_uniform_(weight.flatten(1))
        for output in self.outputs:
            nn.init.uniform_(output, -(pooled**-0.5), pooled**-0.5)

    def forward(self, embeddings: Tensor) -> Tensor:
        """embeddings [batch, n_fields, dim] -> w . p+ [batch]."""
        fields = embeddings.transpose(1, 2)  # X^0, [batch, dim, n_fields]
        maps, logits = fields, []
        for layer, (weight, output) in enumerate(zip(self.weights, self.outputs, strict=True)):
            mixed = torch.tensordot(output, weight[self.first_pooled[layer] :], dims=1)  # A, [maps, n_fields]
            logits.append((maps @ mixed * fields).sum(dim=(1, 2)))
            if layer < len(self.hidden):
                products = (maps.unsqueeze(3) * fields.unsqueeze(2)).flatten(2)
                maps = products @ weight[: self.hidden[layer]].flatten(1).T  # [batch, dim, maps]
        total: Tensor = functools.reduce(torch.add, logits)
        return total


class PairedCIN(nn.Module):
    """A CIN whose maps read chosen pairs of a map below and a field, so most products are never computed.

    Each layer but the last passes maps on, X_h = sum over its pairs of V_hp X^{k-1}_i * X^0_j, and each layer
    adds the sum over i, j of A_ij <X^{k-1}_i, X^0_j> to the output. Any CIN can be written so, and with half
    of the pairs in its first layer, where (i, j) and (j, i) have the same product.
    """

    def __init__(
        self, n_fields: int, maps: Sequence[int], pairs: Sequence[Sequence[tuple[int, int]]]
    ) -> None:
        super().__init__()
        check_widths("cin_maps", maps, "with 'cin_pairs' it is the number of maps that a layer passes on")
        below = [n_fields, *maps]
        self.pairs = tuple(tuple((int(i), int(j)) for i, j in of_layer) for of_layer in pairs)
        if len(self.pairs) != len(maps) or not all(
            of_layer and all(0 <= i < height and 0 <= j < n_fields for i, j in of_layer)
            for of_layer, height in zip(self.pairs, below, strict=False)
        ):
            raise ValueError(
                f"'cin_pairs' must be pairs (map below, field), one list for each of {len(maps)} layers "
                f"(got {pairs!r}); they are what its maps read"
            )
        self.maps = nn.ParameterList(
            torch.empty(size, len(of_layer)) for size, of_layer in zip(maps, self.pairs, strict=True)
        )
        self.mixed = nn.ParameterList(torch.empty(height, n_fields) for height in below)
        for weight in (*self.maps, *self.mixed):
            nn.init.xavier_uniform_(weight)
        for layer, of_layer in enumerate(self.pairs):
            left, right = torch.tensor(of_layer, dtype=torch.int64).T.contiguous()
            self.register_buffer(f"left_{layer}", left, persistent=False)
            self.register_buffer(f"right_{layer}", right, persistent=False)

    def forward(self, embeddings: Tensor) -> Tensor:
        """embeddings [batch, n_fields, dim] -> [batch]."""
        fields = embeddings.transpose(1, 2)  # X^0, [batch, dim, n_fields]
        maps, logits = fields, []
        for layer, mixed in enumerate(self.mixed):
            logits.append((maps @ mixed * fields).sum(dim=(1, 2)))
            if layer < len(self.maps):
                # Gathers whole vectors: along the last axis it would copy single numbers.
                below = embeddings if layer == 0 else maps.transpose(1, 2)
                left, right = self.get_buffer(f"left_{layer}"), self.get_buffer(f"right_{layer}")
                products = below.index_select(1, left) * embeddings.index_select(1, right)
                maps = products.transpose(1, 2) @ self.maps[layer].T  # [batch, dim, maps]
        total: Tensor = functools.reduce(torch.add, logits)
        return total


class XDeepFM(nn.Module):
    """Linear term + CIN(e) + perceptron(e).

    cin_pairs  makes the CIN a PairedCIN: for each entry of `cin_maps`, now the maps that a layer passes on,
               the pairs (map below, field) that they read
    """

    def __init__(
        self,
        fields: Sequence[Field],
        dim: int = 10,
        hidden_units: Sequence[int] = (400, 400),
        dropout: float = 0.5,
        cin_maps: Sequence[int] = (64, 64),
        split_half: bool = False,
        cin_pairs: Sequence[Sequence[tuple[int, int]]] | None = None,
    ) -> None:
        super().__init__()
        self.fields = tuple(fields)
        self.embedding = FeaturesEmbedding(fields, dim)
        self.wide = LinearTerm(fields)
        self.cin = (
            CIN(len(fields), cin_maps, split_half)
            if cin_pairs is None
            else PairedCIN(len(fields), cin_maps, cin_pairs)
        )
        self.mlp = MLP(len(fields) * dim, hidden_units, dropout)
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, ids: Tensor) -> Tensor:
        """ids [batch, columns] -> logits [batch]."""
        embeddings = self.embedding(ids)  # [batch, n_fields, dim]
        logits: Tensor = self.bias + self.wide(ids) + self.cin(embeddings) + self.mlp(embeddings.flatten(1))
        return logits
