"""A stronger penalty on embeddings of fields whose later rows often have values that training does not know.

It knows counts of ids and models' tables, no optimizer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from export.train.id_counts import Counts, IdCounts
from models.embedding import FeaturesEmbedding
from models.fields import first_rows, stored_rows
from service.bundle.schema import OOV_ID

# An id with so many training rows counts half as learned, as it does in the click rates that trees read.
HALF_LEARNED_ROWS = 20.0

TOLD_FROM = 1.1


@dataclass(frozen=True)
class StrongerPenalty:
    """The factors on the L2 penalty on embeddings.

    by_field  those that are not 1, of fields with rows of their own
    by_table  of each row, [rows, 1], of tables that have any
    """

    by_field: dict[str, float] = field(default_factory=dict)
    by_table: dict[Tensor, Tensor] = field(default_factory=dict)

    def told(self) -> str | None:
        """The fields with factors of at least TOLD_FROM, the largest first; None for none."""
        largest = sorted(self.by_field.items(), key=lambda one: -one[1])
        told = [f"{name} {factor:.2g}" for name, factor in largest if factor >= TOLD_FROM]
        if not told:
            return None
        rest = f", and {len(told) - 5} fields more" if len(told) > 5 else ""
        return f"stronger penalty where validation rows have unseen values: {', '.join(told[:5])}{rest}"


def stronger_penalty(model: nn.Module, counts: IdCounts, strength: float) -> StrongerPenalty:
    """The factors 1 + `strength` * `unseen_share` * `learned_share`, on tables of vectors.

    What training learns of the other fields it learns beside the ids of this one, and a row without such an
    id does not have it. The penalty leaves less to ids that will not be there. A field whose ids all come
    back keeps its penalty, and so does one whose ids have few rows: little is learned beside them.
    """
    found = StrongerPenalty()
    if strength == 0:
        return found
    for embedding in _tables(model):
        table, shared = embedding.table.weight, counts.of_table(embedding)
        factors = torch.ones(len(table), 1, dtype=table.dtype, device=table.device)
        for one, first in zip(embedding.fields, first_rows(embedding.fields), strict=True):
            training, validation = shared.training[one.name], shared.validation[one.name]
            share = unseen_share(training, validation) * learned_share(training)
            if one.same_values_as is None and share > 0:
                found.by_field[one.name] = 1 + strength * share
                factors[first : first + stored_rows(one)] = 1 + strength * share
        if bool((factors != 1).any()):
            found.by_table[table] = factors
    return found


def unseen_share(training: Counts, validation: Counts) -> float:
    """How much more of the validation part than of the training part has no id of its own, from 0 to 1.

    It is the share of training rows that would have to lose theirs to look like validation rows. Values too
    rare for an id are out of vocabulary in both parts alike, and do not count.
    """
    unknown = _unknown(training)
    if not training.sum() or not validation.sum() or unknown.all():
        return 0.0
    before = float(training[unknown].sum() / training.sum())
    after = float(validation[unknown].sum() / validation.sum())
    return max(0.0, (after - before) / (1 - before)) if before < 1 else 0.0


def learned_share(training: Counts) -> float:
    """The mean over training rows of n / (n + HALF_LEARNED_ROWS), for ids with n rows."""
    known = training[~_unknown(training)].astype(np.float64)
    if not known.any():
        return 0.0
    return float((known * known / (known + HALF_LEARNED_ROWS)).sum() / known.sum())


def _unknown(training: Counts) -> NDArray[np.bool_]:
    unknown: NDArray[np.bool_] = training == 0
    unknown[OOV_ID : OOV_ID + 1] = True
    return unknown


def _tables(model: nn.Module) -> Iterator[FeaturesEmbedding]:
    for module in model.modules():
        if isinstance(module, FeaturesEmbedding) and module.table.embedding_dim > 1:
            yield module
