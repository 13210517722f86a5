"""GBDT+LR: boosted trees map a row to leaves, and a logistic regression adds up leaves and ids.

Reference: He et al., "Practical Lessons from Predicting Clicks on Ads at Facebook", ADKDD 2014, section 3.1.
Departs from it in three things. The trees read a number for each id: for a categorical field its smoothed
click rate in the training part. A leaf's weight is the boosted one, which minimises the same loss; training
it again on the rows that the trees were grown on makes it worse. And the regression weights the ids too: the
trees see an id's click rate only, not which id it is. A boosting library fits the trees before training; a
model without fitted trees has random ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.embedding import LinearTerm, pool_sequences
from models.fields import Field, column_offsets, table_rows
from models.hyperparameters import check_count

ALWAYS_LEFT = torch.finfo(torch.float32).max
"""The threshold of a node that sends every row left; not infinite, because a graph's weights are finite."""


@dataclass(frozen=True, eq=False)
class Trees:
    """Complete binary trees: node i's children are 2 i + 1 and 2 i + 2, rows go left if x <= threshold.

    Nodes below the leaves of a shallower tree have the threshold ALWAYS_LEFT.
    """

    fields: Tensor  # [trees, 2^depth - 1], int64: the position of the field that a node tests
    thresholds: Tensor  # [trees, 2^depth - 1]
    leaves: Tensor  # [trees, 2^depth]: the weight of each leaf


class GBDTLR(nn.Module):
    """w_0 + the sum over trees of the weight of the row's leaf + sum of w_i, a weight for each id."""

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
        # The fields' storage is ignored: one number per id needs no compression. Pooling is always the mean,
        # which is on the scale of the ids' numbers. No field shares its numbers: an item's click rate is one
        # thing as the ad, and another in the histories of those who see ads.
        self.fields_as_read = tuple(
            replace(field, storage="full", collisions=1, pooling="mean", same_values_as=None)
            for field in self.fields
        )
        offsets = torch.tensor(column_offsets(self.fields_as_read), dtype=torch.int32)
        self.register_buffer("offsets", offsets, persistent=False)
        # The number that the trees read for each id, [rows], and the trees, concatenated.
        self.register_buffer("numbers", torch.randn(sum(map(table_rows, self.fields_as_read))))
        self.register_buffer("tree_fields", torch.randint(len(fields), (trees * nodes,)))
        self.register_buffer("thresholds", torch.randn(trees * nodes))
        self.register_buffer("first_nodes", torch.arange(trees) * nodes, persistent=False)
        self.register_buffer("first_leaves", torch.arange(trees) * leaves, persistent=False)
        self.leaf_weights = nn.Parameter(torch.randn(trees * leaves) * 0.01, requires_grad=False)
        self.linear = LinearTerm(self.fields_as_read)
        nn.init.zeros_(self.linear.embedding.table.weight)  # ids add nothing yet to what the trees say
        self.bias = nn.Parameter(torch.zeros(()))

    def numbers_of(self, ids: Tensor, numbers: Tensor | None = None) -> Tensor:
        """ids [batch, columns] -> the numbers that the trees read, [batch, n_fields]; a mean for sequences.

        `numbers` [rows] replaces the model's own.
        """
        own = self.numbers if numbers is None else numbers
        looked_up = F.embedding(ids + self.offsets, own.unsqueeze(1))  # [batch, columns, 1]
        return pool_sequences(self.fields_as_read, ids, looked_up).squeeze(2)

    def leaves_of(self, numbers: Tensor) -> Tensor:
        """numbers [batch, n_fields] -> the leaf in each tree, [batch, trees], int64 in [0, 2^depth)."""
        node = torch.zeros(numbers.shape[0], self.trees, dtype=torch.int64, device=numbers.device)
        for _ in range(self.depth):
            position = node + self.first_nodes
            right = numbers.gather(1, self.tree_fields[position]) > self.thresholds[position]
            node = 2 * node + 1 + right.to(torch.int64)
        leaves: Tensor = node - (2**self.depth - 1)
        return leaves

    def forward(self, ids: Tensor) -> Tensor:
        """ids [batch, columns] -> logits [batch]."""
        leaves = self.leaves_of(self.numbers_of(ids)) + self.first_leaves
        logits: Tensor = self.leaf_weights[leaves].sum(dim=1) + self.linear(ids) + self.bias
        return logits

    @torch.no_grad()
    def set_trees(self, numbers: Tensor, trees: Trees, bias: float) -> None:
        """Sets fitted trees, the numbers [rows] of the ids, and the regression's initial bias."""
        self.numbers.copy_(numbers)
        self.tree_fields.copy_(trees.fields.flatten())
        self.thresholds.copy_(trees.thresholds.flatten())
        self.leaf_weights.copy_(trees.leaves.flatten())
        self.bias.fill_(bias)

    def get_trees(self) -> Trees:
        """The trees with the weights of their leaves."""
        shape = (self.trees, -1)
        return Trees(
            self.tree_fields.reshape(shape),
            self.thresholds.reshape(shape),
            self.leaf_weights.detach().reshape(shape),
        )
