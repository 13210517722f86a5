"""GBDT+LR: boosted trees turn a row into leaves, a logistic regression weighs the leaves.

Reference: He et al., "Practical Lessons from Predicting Clicks on Ads at Facebook", ADKDD 2014, section 3.1.
Departs from it in what the trees read: a number for each id (of a categorical field its smoothed click rate,
learnt on the training part), and in the regression's start: the boosting's own leaf values, not zeros. Trees
are fitted by a boosting library before training begins; a model without fitted trees has random ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.embedding import pool_sequences
from models.fields import Field, column_offsets, table_rows
from models.hyperparameters import check_count

ALWAYS_LEFT = torch.finfo(torch.float32).max
"""The threshold of a node that passes every row on to the left; a graph's weights must be finite."""


@dataclass(frozen=True, eq=False)
class Trees:
    """Complete binary trees: node i's children are 2 i + 1 and 2 i + 2, rows go left where x <= threshold.

    Where a tree is less deep its nodes' thresholds are ALWAYS_LEFT.
    """

    fields: Tensor  # [trees, 2^depth - 1], int64: the position of the field that a node looks at
    thresholds: Tensor  # [trees, 2^depth - 1]
    leaves: Tensor  # [trees, 2^depth]: the weight of each leaf


class GBDTLR(nn.Module):
    """w_0 + the sum over trees of the weight of the leaf that the row falls into."""

    offsets: Tensor
    numbers: Tensor
    tree_fields: Tensor
    thresholds: Tensor
    first_nodes: Tensor
    first_leaves: Tensor

    def __init__(self, fields: Sequence[Field], trees: int = 200, depth: int = 4) -> None:
        super().__init__()
        check_count("trees", trees, 1, "a forest has a tree")
        check_count("depth", depth, 1, "a tree splits its rows")
        self.fields = tuple(fields)
        self.trees, self.depth = trees, depth
        nodes, leaves = 2**depth - 1, 2**depth
        # Embeddings' storage is not followed: a number takes no more memory than the address of a shared one.
        # Nor is their pooling: the mean of a sequence is a number like those of its ids.
        self.fields_as_read = tuple(
            replace(field, storage="full", collisions=1, pooling="mean") for field in self.fields
        )
        offsets = torch.tensor(column_offsets(self.fields_as_read), dtype=torch.int32)
        self.register_buffer("offsets", offsets, persistent=False)
        # What the trees read of each id, [rows], and the trees themselves, one after the other.
        self.register_buffer("numbers", torch.randn(sum(map(table_rows, self.fields_as_read))))
        self.register_buffer("tree_fields", torch.randint(len(fields), (trees * nodes,)))
        self.register_buffer("thresholds", torch.randn(trees * nodes))
        self.register_buffer("first_nodes", torch.arange(trees) * nodes, persistent=False)
        self.register_buffer("first_leaves", torch.arange(trees) * leaves, persistent=False)
        self.leaf_weights = nn.Parameter(torch.randn(trees * leaves) * 0.01)
        self.bias = nn.Parameter(torch.zeros(()))

    def numbers_of(self, ids: Tensor, numbers: Tensor | None = None) -> Tensor:
        """ids [batch, columns] -> what the trees read, [batch, n_fields]; of a sequence the mean.

        `numbers` [rows] stand in for the model's own.
        """
        own = self.numbers if numbers is None else numbers
        looked_up = F.embedding(ids + self.offsets, own.unsqueeze(1))  # [batch, columns, 1]
        return pool_sequences(self.fields_as_read, ids, looked_up).squeeze(2)

    def leaves_of(self, numbers: Tensor) -> Tensor:
        """numbers [batch, n_fields] -> the leaf in each tree, [batch, trees], int64 in [0, 2^depth)."""
        node = torch.zeros(numbers.shape[0], self.trees, dtype=torch.int64, device=numbers.device)
        for _ in range(self.depth):
            place = node + self.first_nodes
            right = numbers.gather(1, self.tree_fields[place]) > self.thresholds[place]
            node = 2 * node + 1 + right.to(torch.int64)
        leaves: Tensor = node - (2**self.depth - 1)
        return leaves

    def forward(self, ids: Tensor) -> Tensor:
        """ids [batch, columns] -> logits [batch]."""
        leaves = self.leaves_of(self.numbers_of(ids)) + self.first_leaves
        logits: Tensor = self.leaf_weights[leaves].sum(dim=1) + self.bias
        return logits

    @torch.no_grad()
    def set_trees(self, numbers: Tensor, trees: Trees, bias: float) -> None:
        """Takes over fitted trees: numbers [rows] of the ids, and the regression's start."""
        self.numbers.copy_(numbers)
        self.tree_fields.copy_(trees.fields.flatten())
        self.thresholds.copy_(trees.thresholds.flatten())
        self.leaf_weights.copy_(trees.leaves.flatten())
        self.bias.fill_(bias)

    def get_trees(self) -> Trees:
        """The trees as they are, with today's leaf weights."""
        shape = (self.trees, -1)
        return Trees(
            self.tree_fields.reshape(shape),
            self.thresholds.reshape(shape),
            self.leaf_weights.detach().reshape(shape),
        )
