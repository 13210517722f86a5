"""Rows of embedding tables that training never looks up: they get a mean of their field's trained rows.

It knows models' tables and counts of ids, no optimizer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from export.train.id_counts import Counts, IdCounts
from models.embedding import FeaturesEmbedding
from models.fields import Field, first_rows, stored_rows
from service.bundle.schema import FIRST_ID

# A missing or out-of-vocabulary id with fewer training rows has learned next to nothing. A value's own id is
# left alone: its least rows are the schema's `min_count`.
LEAST_ROWS = 8

# So much less, as a share, must the LogLoss of validation rows be with the mean over ids.
LEAST_GAIN = 2e-4


@dataclass(frozen=True)
class _Fill:
    """One field's rows in a table, with the training rows of each and whether it is filled, [rows].

    `judged` says whether validation rows look up rows that are filled.
    """

    table: Tensor
    rows: slice
    counts: Tensor  # 0 for rows that are filled
    filled: Tensor
    judged: bool

    def fill(self, weights: Tensor) -> None:
        """Sets the rows to the mean of the others by these weights [rows]."""
        rows = self.table[self.rows]
        rows[self.filled.to(rows.device)] = (weights / weights.sum()).to(rows) @ rows


class UntrainedRows:
    """The rows that the training part does not train, of all of a model's tables.

    A row that is never looked up would be served with its random initial values: the row of missing values
    in a field that always has one, of unseen values in a field whose values all are frequent, of a bucket
    that no value hashes to. The mean of the field's other rows, weighted by their training rows, stands for
    a value like any other: a linear model's logit of a row about which nothing is known is then the mean of
    its training rows' logits. Of users that mean is mostly that of heavy ones; where new users are not like
    them, the mean over ids is nearer, which `choose` finds out.
    """

    def __init__(self, model: nn.Module, counts: IdCounts) -> None:
        tables = [module for module in model.modules() if isinstance(module, FeaturesEmbedding)]
        self._fills = [fill for table in tables for fill in _fills(table, counts.of_table(table))]

    @torch.no_grad()
    def fill(self) -> None:
        """Sets these rows to the present means over rows. Training goes on as if nothing had changed."""
        for each in self._fills:
            each.fill(each.counts)

    @torch.no_grad()
    def choose(self, judge: Callable[[], float]) -> bool:
        """Sets rows that validation rows look up to means over ids, if `judge` falls by more than LEAST_GAIN.

        `judge` is the LogLoss of the validation part. It is called before, and once more where there is a
        choice; the result is whether the latter stands. What pruning made zero stays zero.
        """
        before, fills = judge(), [each for each in self._fills if each.judged]
        if not fills:
            return False
        held = [each.table[each.rows].clone() for each in fills]
        for each, values in zip(fills, held, strict=True):
            each.fill((each.counts > 0).to(torch.float64))
            each.table[each.rows].masked_fill_(values == 0, 0)
        if judge() < before * (1 - LEAST_GAIN):
            return True
        for each, values in zip(fills, held, strict=True):
            each.table[each.rows].copy_(values)
        return False


def _fills(embedding: FeaturesEmbedding, counts: IdCounts) -> Iterator[_Fill]:
    """One for each field that has both trained and untrained rows of its own."""
    for field, first in zip(embedding.fields, first_rows(embedding.fields), strict=True):
        if field.same_values_as is not None:
            continue
        found = _by_stored_row(field, counts.training[field.name])
        filled = found == 0
        if field.storage == "full":
            filled[:FIRST_ID] |= found[:FIRST_ID] < LEAST_ROWS
        trained = np.where(filled, 0, found)
        if filled.any() and trained.any():
            yield _Fill(
                embedding.table.weight,
                slice(first, first + len(found)),
                torch.from_numpy(trained.astype(np.float64)),
                torch.from_numpy(filled),
                judged=bool(_by_stored_row(field, counts.validation[field.name])[filled].any()),
            )


def _by_stored_row(field: Field, counts: Counts) -> Counts:
    """Counts by id -> by row of the table, [stored_rows]."""
    if field.storage == "full":
        return counts
    ids, rows = np.arange(field.cardinality), stored_rows(field)
    stored = ids % rows if field.storage == "hashed" else ids // field.collisions
    return np.bincount(stored, weights=counts, minlength=rows).astype(np.int64)
