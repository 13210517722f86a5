"""Ids -> vectors: one table for all fields, with a row for each id, for several ids, or shared by fields.

It knows fields, not what a model does with the vectors.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.fields import (
    PADDING_ID,
    Field,
    by_column,
    column_offsets,
    column_slices,
    stored_rows,
    table_rows,
)
from models.hyperparameters import check_count

EMBEDDING_STD = 0.01
REMAINDER_STD = 0.5


class FeaturesEmbedding(nn.Module):
    """One table for all fields: a field's ids are shifted by the field's offset, so one lookup serves all.

    A field says how it is stored. `hashed`: id modulo the number of its rows (Weinberger et al., "Feature
    Hashing for Large Scale Multitask Learning", ICML 2009). `qr`, quotient and remainder: the row of
    id // collisions times a factor for id % collisions (Shi et al., "Compositional Embeddings Using
    Complementary Partitions", KDD 2020, with the element-wise product). Departs from it in the
    factor, which is 1 + a row that starts near zero, so the L2 penalty pulls it to 1 and not to 0.
    """

    offsets: Tensor
    divisors: Tensor
    moduli: Tensor
    remainder_offsets: Tensor

    def __init__(self, fields: Sequence[Field], dim: int) -> None:
        super().__init__()
        check_count("dim", dim, 1, "it is the length of an embedding")
        self.fields = tuple(fields)
        self.table = nn.Embedding(sum(map(table_rows, fields)), dim)
        nn.init.normal_(self.table.weight, std=EMBEDDING_STD)
        self._register("offsets", column_offsets(fields))
        self.has_hashed = any(field.storage == "hashed" for field in fields)
        if self.has_hashed:
            self._register("moduli", by_column(fields, [_modulus(field) for field in fields]))
        self.has_remainders = any(field.storage == "qr" for field in fields)
        if self.has_remainders:
            self._add_remainders(dim)

    def _add_remainders(self, dim: int) -> None:
        """Row 0 is the constant zero of all fields without remainders."""
        first = {field.name: 0 for field in self.fields}
        row = 1
        for field in self.fields:
            if field.storage == "qr" and field.same_values_as is None:
                first[field.name] = row
                row += field.collisions
        for field in self.fields:
            if field.same_values_as is not None:
                first[field.name] = first[field.same_values_as]
        self.remainders = nn.Embedding(row, dim, padding_idx=0)
        with torch.no_grad():
            nn.init.normal_(self.remainders.weight, std=REMAINDER_STD)
            self.remainders.weight[0] = 0.0
        divisors = [field.collisions if field.storage == "qr" else 1 for field in self.fields]
        self._register("divisors", by_column(self.fields, divisors))
        remainder_rows = [first[field.name] for field in self.fields]
        self._register("remainder_offsets", by_column(self.fields, remainder_rows))

    def _register(self, name: str, numbers: list[int]) -> None:
        # int32 like the ids, so the graph has no cast. Not persistent, because it follows from the fields.
        self.register_buffer(name, torch.tensor(numbers, dtype=torch.int32), persistent=False)

    def factors_of(self, name: str) -> Tensor:
        """The factors of a field that is stored as `qr`, [collisions, dim]."""
        field = next(field for field in self.fields if field.name == name)
        first = int(self.remainder_offsets[column_slices(self.fields)[name].start])
        return 1.0 + self.remainders.weight[first : first + field.collisions]

    def rows(self, ids: Tensor) -> Tensor:
        """ids [batch, columns], int32 or int64 -> [batch, columns, dim], without pooling sequences."""
        rows = ids % self.moduli if self.has_hashed else ids
        if not self.has_remainders:
            plain: Tensor = self.table(rows + self.offsets)
            return plain
        quotients = torch.div(rows, self.divisors, rounding_mode="floor")
        factors = 1.0 + self.remainders(ids % self.divisors + self.remainder_offsets)
        composed: Tensor = self.table(quotients + self.offsets) * factors
        return composed

    def forward(self, ids: Tensor) -> Tensor:
        """ids [batch, columns], int32 or int64 -> embeddings [batch, n_fields, dim]."""
        return self.pool(ids, self.rows(ids))

    def pool(self, ids: Tensor, embeddings: Tensor) -> Tensor:
        """[batch, columns, dim] -> [batch, n_fields, dim]; a sequence pools its ids != 0."""
        return pool_sequences(self.fields, ids, embeddings)


def pool_sequences(fields: Sequence[Field], ids: Tensor, vectors: Tensor) -> Tensor:
    """ids [batch, columns], vectors [batch, columns, dim] -> [batch, n_fields, dim], by each field's pooling.

    A sequence pools its ids != 0 only.
    """
    if all(field.width == 1 for field in fields):
        return vectors
    pooled, column = [], 0
    for is_sequence, run in itertools.groupby(fields, key=lambda field: field.width > 1):
        if not is_sequence:
            width = len(list(run))
            pooled.append(vectors[:, column : column + width])
            column += width
            continue
        for field in run:
            span = slice(column, column + field.width)
            present = (ids[:, span] != PADDING_ID).to(vectors.dtype).unsqueeze(2)
            total = (vectors[:, span] * present).sum(dim=1, keepdim=True)
            if field.pooling == "mean":
                total = total / present.sum(dim=1, keepdim=True).clamp(min=1.0)
            pooled.append(total)
            column += field.width
    return torch.cat(pooled, dim=1)


class LinearTerm(nn.Module):
    """The linear term of FM and of wide models: one weight for each id, an embedding of dimension 1."""

    def __init__(self, fields: Sequence[Field]) -> None:
        super().__init__()
        self.embedding = FeaturesEmbedding(fields, dim=1)

    def forward(self, ids: Tensor) -> Tensor:
        """ids [batch, columns] -> [batch]; a sequence adds the mean (or the sum) of its ids' weights."""
        weights: Tensor = self.embedding(ids)
        return weights.sum(dim=(1, 2))


def _modulus(field: Field) -> int:
    """The number of rows of a hashed field; for other fields the cardinality, a modulus without effect."""
    return stored_rows(field) if field.storage == "hashed" else field.cardinality
