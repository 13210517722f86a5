"""A model's fields: how the embeddings of each are kept."""

from __future__ import annotations

from typing import Literal

import pytest

from export.train.build import build_model, described_embeddings, model_fields
from export.train.choices import EmbeddingChoice
from models.fields import fields_of
from service.bundle.schema import Field, Kind, Role, Schema, Vocabulary

FEW, MANY = 12, 90
SCHEMA = Schema(
    tuple(
        Field(name, Kind.CATEGORICAL, Role.CANDIDATE, Vocabulary(tuple(f"v{n:03}" for n in range(count - 2))))
        for name, count in (("few", FEW), ("many", MANY))
    )
)


def kept(storage: Literal["qr", "hashed"], collisions: int) -> list[str]:
    choice = EmbeddingChoice(storage, collisions=collisions, least_ids=1)
    fields = model_fields(SCHEMA, choice)
    assert [field.cardinality for field in fields] == [FEW, MANY]
    return [field.storage for field in fields]


@pytest.mark.parametrize(
    ("collisions", "expected"),
    [
        (1, ["full", "full"]),
        (2, ["qr", "qr"]),  # 6 + 2 rows of 12
        (6, ["qr", "qr"]),  # 2 + 6
        (9, ["qr", "qr"]),  # 2 + 9
        (10, ["full", "qr"]),  # 2 + 10
        (45, ["full", "qr"]),  # 2 + 45 of 90
        (89, ["full", "full"]),  # 2 + 89
        (1000, ["full", "full"]),
    ],
)
def test_quotients_and_remainders_have_fewer_rows_than_ids_or_are_not_used(
    collisions: int, expected: list[str]
) -> None:
    assert kept("qr", collisions) == expected


def test_ids_that_share_no_row_are_kept_as_they_are() -> None:
    assert kept("hashed", 1) == ["full", "full"]
    assert kept("hashed", 2) == kept("hashed", 1000) == ["hashed", "hashed"]


@pytest.mark.parametrize("storage", ["qr", "hashed"])
@pytest.mark.parametrize("least_ids", [1, FEW + 1])
def test_how_embeddings_are_kept_is_described_by_a_choice_that_keeps_them_so(
    storage: Literal["qr", "hashed"], least_ids: int
) -> None:
    model = build_model("lr", SCHEMA, embedding=EmbeddingChoice(storage, collisions=3, least_ids=least_ids))
    described = EmbeddingChoice(**described_embeddings(model))
    assert model_fields(SCHEMA, described) == fields_of(model)
    assert described_embeddings(build_model("lr", SCHEMA)) == {}
