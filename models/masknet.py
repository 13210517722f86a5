"""MaskNet: layers whose inputs are multiplied by a mask that the whole row computes.

Reference: Wang et al., "MaskNet: Introducing Feature-Wise Multiplication to CTR Ranking Models by
Instance-Guided Mask", DLP-KDD 2021, with layer normalization of each field's embedding, in its serial form
(`stacked`) and its parallel one. Departs from it in initial values, masks near 1 and small weights of the
output, and in the sizes, which are ours.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.dcn_v2 import Structure
from models.embedding import EMBEDDING_STD, FeaturesEmbedding
from models.fields import Field
from models.hyperparameters import check_at_least, check_choice, check_count, check_widths
from models.layers import MLP, Dropout, start_before_relu


class FieldNorm(nn.Module):
    """Layer normalization of each embedding, with weights and biases for each field."""

    def __init__(self, n_fields: int, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(n_fields, dim))
        self.bias = nn.Parameter(torch.zeros(n_fields, dim))

    def forward(self, embeddings: Tensor) -> Tensor:
        """embeddings [batch, n_fields, dim] -> the same shape."""
        return F.layer_norm(embeddings, embeddings.shape[2:]) * self.weight + self.bias


class InstanceMask(nn.Module):
    """W_2 relu(W_1 e + b_1) + b_2: a factor for each of `width` numbers, from all embeddings e of the row."""

    def __init__(self, embedded: int, width: int, reduction_ratio: float) -> None:
        super().__init__()
        check_at_least(
            "reduction_ratio", reduction_ratio, 0, "it is the hidden layer's width over the mask's"
        )
        self.aggregate = nn.Linear(embedded, max(1, int(width * reduction_ratio)))
        start_before_relu(self.aggregate)
        self.project = nn.Linear(self.aggregate.out_features, width)
        nn.init.ones_(self.project.bias)

    def forward(self, embedded: Tensor) -> Tensor:
        """e [batch, embedded] -> [batch, width]."""
        mask: Tensor = self.project(torch.relu(self.aggregate(embedded)))
        return mask


class MaskBlock(nn.Module):
    """relu(LayerNorm(W (mask(e) * x)))."""

    def __init__(self, embedded: int, in_features: int, out_features: int, reduction_ratio: float) -> None:
        super().__init__()
        self.mask = InstanceMask(embedded, in_features, reduction_ratio)
        self.linear = nn.Linear(in_features, out_features, bias=False)
        self.normalize = nn.LayerNorm(out_features)

    def forward(self, inputs: Tensor, embedded: Tensor) -> Tensor:
        """x [batch, in_features] and e [batch, embedded] -> [batch, out_features]."""
        return torch.relu(self.normalize(self.linear(self.mask(embedded) * inputs)))


class MaskNet(nn.Module):
    """Mask blocks on the normalized embeddings, with masks from the plain ones.

    Stacked: one block on the other, and w . the last one. Parallel: perceptron(all blocks side by side).

    hidden_units     the layers of the perceptron, or in the stacked form the widths of the blocks
    blocks           in the parallel form, how many there are
    block_units      in the parallel form, the width of each
    reduction_ratio  the width of the hidden layer of a mask, over the mask's
    """

    def __init__(
        self,
        fields: Sequence[Field],
        dim: int = 10,
        hidden_units: Sequence[int] = (64, 64, 64),
        dropout: float = 0.2,
        structure: Structure = "parallel",
        blocks: int = 3,
        block_units: int = 64,
        reduction_ratio: float = 1.0,
    ) -> None:
        super().__init__()
        check_choice("structure", structure, get_args(Structure), "the paper has these two")
        check_widths(
            "hidden_units", hidden_units, "they are the widths of blocks, or of a perceptron's layers"
        )
        check_count("blocks", blocks, 1, "the perceptron reads their outputs")
        check_count("block_units", block_units, 1, "it is the width of a block")
        self.fields = tuple(fields)
        self.embedding = FeaturesEmbedding(fields, dim)
        self.normalize = FieldNorm(len(fields), dim)
        width, self.dropout = len(fields) * dim, Dropout(dropout)
        self.is_stacked = structure == "stacked"
        sizes = [(width, block_units)] * blocks
        if self.is_stacked:
            sizes = list(itertools.pairwise((width, *hidden_units)))
            last = self.output = nn.Linear(sizes[-1][1] if sizes else width, 1, bias=False)
        else:
            self.mlp = MLP(blocks * block_units, hidden_units, dropout)
            last = self.mlp.output
        # Normalized values are of unit size for any row; the logits of a new model are near its bias.
        nn.init.normal_(last.weight, std=EMBEDDING_STD)
        self.blocks = nn.ModuleList(MaskBlock(width, *size, reduction_ratio) for size in sizes)
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, ids: Tensor) -> Tensor:
        """ids [batch, columns] -> logits [batch]."""
        embeddings = self.embedding(ids)  # [batch, n_fields, dim]
        embedded, hidden = embeddings.flatten(1), self.normalize(embeddings).flatten(1)
        if self.is_stacked:
            for block in self.blocks:
                hidden = self.dropout(block(hidden, embedded))
            stacked: Tensor = self.bias + self.output(hidden).squeeze(1)
            return stacked
        found = torch.cat([block(hidden, embedded) for block in self.blocks], dim=1)
        parallel: Tensor = self.bias + self.mlp(self.dropout(found))
        return parallel
