"""Wide & Deep: a weight for each id and for chosen cross products, beside a perceptron on embeddings.

Reference: Cheng et al., "Wide & Deep Learning for Recommender Systems", DLRS 2016, eq. 1 and 3; hidden layers
as in its figure 4. Departs from it in dim (32 there; 10 here, as in every model), in dropout (none there) and
in optimizers (FTRL for the wide part there), which the training loop chooses.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.embedding import EMBEDDING_STD, FeaturesEmbedding, LinearTerm
from models.fields import Field, column_slices, find_field
from models.layers import MLP

PRIME = 2**31 - 1
MULTIPLIER = 1_327_217_885
"""2^31 divided by the golden ratio; its powers modulo PRIME distribute a cross's ids over all buckets."""


class CrossProducts(nn.Module):
    """Cross-product features, eq. 1: one weight for every combination of ids of a group of fields.

    The combination's number is `sum over k of (id_k * m_k mod PRIME)`, modulo the cross's rows. If all
    combinations fit into `buckets`, m_k are place values of a mixed radix and every combination has its own
    row. Otherwise m_k are the powers of MULTIPLIER, a linear hash (Carter & Wegman, "Universal Classes of
    Hash Functions", 1979, here with fixed multipliers): two combinations share a row with probability about 1
    / buckets. Ids and multipliers are below 2^31, so all products fit int64 and no number is negative, so
    every runtime computes the same remainder.
    """

    columns: Tensor
    multipliers: Tensor
    rows: Tensor
    offsets: Tensor

    def __init__(self, fields: Sequence[Field], crosses: Sequence[Sequence[str]], buckets: int) -> None:
        super().__init__()
        if not 1 <= buckets < PRIME:
            raise ValueError(
                f"'cross_buckets' must be in [1, {PRIME}) (got {buckets!r}); it limits a cross's weights"
            )
        members = [_members(fields, cross) for cross in crosses]
        slices = column_slices(fields)
        longest = max(map(len, members))
        columns, multipliers, rows = [], [], []
        for cross in members:
            combinations = math.prod(field.cardinality for field in cross)
            spare = longest - len(cross)  # a shorter cross is padded with column 0 times 0
            columns.append([slices[field.name].start for field in cross] + [0] * spare)
            factors = _mixed_radix(cross) if combinations <= buckets else _powers(len(cross))
            multipliers.append(factors + [0] * spare)
            rows.append(min(combinations, buckets))
        self._register("columns", list(zip(*columns, strict=True)))  # [longest, n_crosses], as multipliers
        self._register("multipliers", list(zip(*multipliers, strict=True)))
        self._register("rows", rows)  # [n_crosses]
        self._register("offsets", [sum(rows[:position]) for position in range(len(rows))])  # [n_crosses]
        self.weights = nn.Embedding(sum(rows), 1)
        nn.init.normal_(self.weights.weight, std=EMBEDDING_STD)

    def _register(self, name: str, numbers: list[int] | list[tuple[int, ...]]) -> None:
        self.register_buffer(name, torch.tensor(numbers, dtype=torch.int64), persistent=False)

    def weight_rows(self, ids: Tensor) -> Tensor:
        """ids [batch, columns] -> the row of each cross's weight, int64 [batch, n_crosses]."""
        numbers = torch.zeros((), dtype=torch.int64, device=ids.device)
        for columns, multipliers in zip(self.columns, self.multipliers, strict=True):
            numbers = numbers + ids.index_select(1, columns).long() * multipliers % PRIME
        return numbers % self.rows + self.offsets

    def forward(self, ids: Tensor) -> Tensor:
        """ids [batch, columns] -> [batch]."""
        weights: Tensor = self.weights(self.weight_rows(ids))  # [batch, n_crosses, 1]
        return weights.sum(dim=(1, 2))


class WideDeep(nn.Module):
    """w_0 + wide(x) + wide(crosses of x) + MLP(e).

    crosses        groups of fields by name, [["site", "ad"], ...]; each adds the combination of its ids as an
    id cross_buckets  the largest number of weights of a cross; with more combinations several share a weight
    """

    def __init__(
        self,
        fields: Sequence[Field],
        dim: int = 10,
        hidden_units: Sequence[int] = (1024, 512, 256),
        dropout: float = 0.5,
        crosses: Sequence[Sequence[str]] = (),
        cross_buckets: int = 100_000,
    ) -> None:
        super().__init__()
        self.fields = tuple(fields)
        self.wide = LinearTerm(fields)
        self.crosses = CrossProducts(fields, crosses, cross_buckets) if crosses else None
        self.embedding = FeaturesEmbedding(fields, dim)
        self.mlp = MLP(len(fields) * dim, hidden_units, dropout)
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, ids: Tensor) -> Tensor:
        """ids [batch, columns] -> logits [batch]."""
        wide = self.wide(ids) if self.crosses is None else self.wide(ids) + self.crosses(ids)
        logits: Tensor = self.bias + wide + self.mlp(self.embedding(ids).flatten(1))
        return logits


def _members(fields: Sequence[Field], cross: Sequence[str]) -> list[Field]:
    """The fields that a cross names. Raises ValueError unless it names two or more fields of width 1."""
    if isinstance(cross, str) or len(set(cross)) < 2 or len(set(cross)) < len(cross):
        raise ValueError(
            f"a cross of 'crosses' must be two or more different fields (got {cross!r}); "
            'write [["site", "ad"], ...]'
        )
    members = [fields[find_field(fields, name, "crosses")] for name in cross]
    for field in members:
        if field.width > 1:
            raise ValueError(
                f"a cross of 'crosses' must be fields with one id (got '{field.name}' with {field.width}); "
                "omit sequences"
            )
    return members


def _mixed_radix(cross: Sequence[Field]) -> list[int]:
    """The place value of each field that gives every combination a unique number."""
    return [math.prod(field.cardinality for field in cross[after:]) for after in range(1, len(cross) + 1)]


def _powers(count: int) -> list[int]:
    return [pow(MULTIPLIER, exponent, PRIME) for exponent in range(1, count + 1)]
