"""Embeddings of every storage against a lookup id by id."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from models.embedding import FeaturesEmbedding, LinearTerm
from models.fields import Field, Pooling, Storage, column_offsets, column_slices, columns, find_field
from tests.models.layouts import some_ids

FIELDS = [Field("site", 5), Field("history", 7, width=3), Field("ad", 4), Field("tags", 3, width=2)]
SHARED = [
    Field("history", 7, width=3, same_values_as="ad"),
    Field("site", 5),
    Field("ad", 7),
    Field("seen", 7, width=2, same_values_as="ad", pooling="sum"),
]


def test_columns_and_offsets_follow_the_widths() -> None:
    assert columns(FIELDS) == 7
    assert column_offsets(FIELDS) == [0, 5, 5, 5, 12, 16, 16]


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_embedding_looks_up_each_field_in_its_own_rows_and_means_sequences(dtype: torch.dtype) -> None:
    layer = FeaturesEmbedding(FIELDS, dim=6)
    ids = some_ids(FIELDS, 50).to(dtype)
    ids[0, 1:4] = 0  # an empty sequence
    found = layer(ids)
    first_rows = [0, 5, 12, 16]
    for row, (position, field) in itertools.product(range(50), enumerate(FIELDS)):
        start = sum(other.width for other in FIELDS[:position])
        of_field = ids[row, start : start + field.width].tolist()
        kept = of_field if field.width == 1 else [value for value in of_field if value != 0]
        vectors = [layer.table.weight[first_rows[position] + value] for value in kept]
        expected = torch.stack(vectors).mean(dim=0) if vectors else torch.zeros(6)
        torch.testing.assert_close(found[row, position], expected)


def test_padding_gets_no_gradient() -> None:
    layer = FeaturesEmbedding([Field("history", 4, width=3)], dim=2)
    layer(torch.tensor([[2, 0, 0]])).sum().backward()
    assert layer.table.weight.grad is not None
    assert layer.table.weight.grad.tolist() == [[0, 0], [0, 0], [1, 1], [0, 0]]


def stored(fields: list[Field], storage: Storage, collisions: int) -> list[Field]:
    return [replace(field, storage=storage, collisions=collisions) for field in fields]


def row_of(layer: FeaturesEmbedding, position: int, value: int) -> Tensor:
    """The vector of one id, as the storage of its field says."""
    fields = layer.fields
    owner = position
    if (source := fields[position].same_values_as) is not None:
        owner = find_field(fields, source, "same_values_as")
    before = [field for field in fields[:owner] if field.same_values_as is None]
    field = fields[owner]
    sizes = [-(-f.cardinality // f.collisions) if f.storage != "full" else f.cardinality for f in before]
    first = sum(sizes)
    if field.storage == "full":
        return layer.table.weight[first + value]
    if field.storage == "hashed":
        return layer.table.weight[first + value % -(-field.cardinality // field.collisions)]
    first_remainder = 1 + sum(f.collisions for f in before if f.storage == "qr")
    factor = 1 + layer.remainders.weight[first_remainder + value % field.collisions]
    return layer.table.weight[first + value // field.collisions] * factor


@pytest.mark.parametrize("fields", [FIELDS, SHARED])
@pytest.mark.parametrize(("storage", "collisions"), [("full", 1), ("hashed", 3), ("qr", 3), ("qr", 1)])
def test_each_id_reads_the_row_of_its_storage(fields: list[Field], storage: Storage, collisions: int) -> None:
    layer = FeaturesEmbedding(stored(fields, storage, collisions), dim=3)
    ids = some_ids(fields, 40)
    found, slices = layer.rows(ids), column_slices(fields)
    for row, (position, field) in itertools.product(range(40), enumerate(fields)):
        for column in range(*slices[field.name].indices(columns(fields))):
            expected = row_of(layer, position, int(ids[row, column]))
            torch.testing.assert_close(found[row, column], expected)


def test_storages_may_be_mixed() -> None:
    fields = [FIELDS[0], replace(FIELDS[1], storage="qr", collisions=2)]
    fields += [replace(FIELDS[2], storage="hashed", collisions=2), FIELDS[3]]
    layer = FeaturesEmbedding(fields, dim=2)
    ids = some_ids(fields, 40)
    found = layer.rows(ids)
    for row, (column, position) in itertools.product(range(40), enumerate([0, 1, 1, 1, 2, 3, 3])):
        torch.testing.assert_close(found[row, column], row_of(layer, position, int(ids[row, column])))


def test_qr_keeps_a_row_for_each_quotient_and_each_remainder() -> None:
    layer = FeaturesEmbedding([Field("ad", 1000, storage="qr", collisions=40)], dim=8)
    assert layer.table.weight.shape == (25, 8)
    assert layer.remainders.weight.shape == (1 + 40, 8)
    vectors = layer(torch.arange(1000).unsqueeze(1)).squeeze(1)
    assert len(torch.unique(vectors, dim=0)) == 1000  # unlike hashing: no two ids are the same


def test_hashed_ids_share_rows() -> None:
    layer = FeaturesEmbedding([Field("ad", 1000, storage="hashed", collisions=40)], dim=8)
    assert layer.table.weight.shape == (25, 8)
    vectors = layer(torch.arange(1000).unsqueeze(1)).squeeze(1)
    assert len(torch.unique(vectors, dim=0)) == 25


def test_the_row_of_fields_without_remainders_gets_no_gradient() -> None:
    layer = FeaturesEmbedding([Field("site", 5), Field("ad", 9, storage="qr", collisions=3)], dim=2)
    layer(torch.tensor([[1, 5], [2, 8]])).sum().backward()
    assert layer.remainders.weight.grad is not None
    assert layer.remainders.weight.grad[0].tolist() == [0, 0]
    assert layer.remainders.weight.grad[1:].any()


@pytest.mark.parametrize("pooling", ["mean", "sum"])
def test_a_sequence_is_pooled_as_its_field_defines(pooling: Pooling) -> None:
    layer = FeaturesEmbedding([Field("tags", 6, width=4, pooling=pooling)], dim=3)
    found = layer(torch.tensor([[2, 5, 5, 0], [0, 0, 0, 0]]))[:, 0]
    total = layer.table.weight[2] + 2 * layer.table.weight[5]
    torch.testing.assert_close(found[0], total / 3 if pooling == "mean" else total)
    assert found[1].tolist() == [0, 0, 0]


def test_the_linear_term_is_the_sum_of_one_weight_an_id() -> None:
    term = LinearTerm(FIELDS)
    ids = some_ids(FIELDS, 20)
    torch.testing.assert_close(term(ids), term.embedding(ids).squeeze(2).sum(dim=1))
    assert term.embedding.table.weight.shape == (19, 1)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ([Field("history", 7, same_values_as="ad")], "must name a field with rows of its own"),
        ([Field("history", 7, same_values_as="ad"), Field("ad", 6)], "as 'ad' does, whose ids it holds"),
        ([Field("ad", 7), Field("ad", 7)], r"'fields' must be one or more, of different names"),
        ([], "'fields' must be one or more"),
    ],
)
def test_fields_that_make_no_table_are_refused(fields: list[Field], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FeaturesEmbedding(fields, dim=2)
