"""Weights go to a model with other values: rows by value, all else as it is, for every model of the zoo."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from export.train.build import build_model, model_fields
from export.train.carry import carried, domain_of, fixed_fields
from export.train.choices import EmbeddingChoice
from export.train.loop import predict_logits
from models import MODELS
from models.embedding import FeaturesEmbedding
from models.fields import first_rows
from service.bundle.encoder import Encoder
from service.bundle.schema import FIRST_ID, Bins, Field, Hashing, Kind, Role, Schema, Vocabulary

GROWING = sorted(MODELS.keys() - {"gbdt_lr"})
BEFORE = ("a", "b", "c", "d", "e", "f")
AFTER = ("f", "b", "a", "new", "c", "newer", "newest")


def a_schema(ads: tuple[str, ...] = BEFORE, sites: tuple[str, ...] = ("s", "t")) -> Schema:
    ad = Field("ad", Kind.CATEGORICAL, Role.CANDIDATE, Vocabulary(ads))
    return Schema(
        (
            Field("site", Kind.CATEGORICAL, Role.CONTEXT, Vocabulary(sites)),
            Field("price", Kind.NUMERIC, Role.CONTEXT, Bins((0.5, 1.5))),
            dataclasses.replace(ad, name="seen", kind=Kind.SEQUENCE, role=Role.CONTEXT, max_length=2,
                                same_values_as="ad"),
            Field("user", Kind.CATEGORICAL, Role.CONTEXT, Hashing(buckets=9)),
            ad,
        )
    )  # fmt: skip


def a_model(name: str, schema: Schema, **more: Any) -> tuple[nn.Module, dict[str, Any]]:
    """With weights large enough for logits to differ."""
    known = inspect.signature(MODELS[name]).parameters
    wanted = {"dim": 4, "hidden_units": (8, 4), **more}
    hyperparameters = {key: value for key, value in wanted.items() if key in known}
    embedding = more.get("embedding")
    model = build_model(name, schema, hyperparameters, embedding=embedding)
    torch.manual_seed(1)
    for weights in model.parameters():
        nn.init.normal_(weights, std=0.3)
    return model.eval(), hyperparameters


def rows_of(ads: tuple[str, ...]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Rows in which each of these ads is the candidate, and in a history."""
    return [
        ({"site": site, "price": price, "seen": [ad, "b"], "user": f"u{price}"}, {"ad": ad})
        for ad in ads
        for site in ("s", "t", "unseen")
        for price in (0.1, 1.0, 9.0)
    ]


def logits_of(model: nn.Module, schema: Schema, ads: tuple[str, ...]) -> np.ndarray:
    encoder = Encoder(schema)
    ids = [encoder.encode_request(context, [candidate]) for context, candidate in rows_of(ads)]
    return predict_logits(model, np.concatenate(ids))


@pytest.mark.parametrize("name", GROWING)
def test_every_model_gives_the_logits_that_it_gave(name: str) -> None:
    """Whatever the ids of its values are now; values that neither knows are out of vocabulary in both."""
    old = a_schema()
    model, hyperparameters = a_model(name, old)
    domain = domain_of(model)
    hyperparameters |= {} if domain is None else {"domain": domain}
    new = a_schema(AFTER)
    grown = carried(model, name, hyperparameters, old, new)
    assert grown.fields == model_fields(new)
    ads = ("a", "b", "c", "f", "never")
    assert np.array_equal(logits_of(grown, new, ads), logits_of(model, old, ads))
    same = carried(model, name, hyperparameters, old, old)
    assert all(torch.equal(value, same.state_dict()[key]) for key, value in model.state_dict().items())


def test_rows_are_those_of_a_naive_loop() -> None:
    """A value keeps its row; a new one has that of a new model of the same seed."""
    old, new = a_schema(), a_schema(AFTER, sites=("t", "u"))
    model, hyperparameters = a_model("deepfm", old)
    grown = carried(model, "deepfm", hyperparameters, old, new, seed=3)
    fresh = build_model("deepfm", new, hyperparameters, seed=3)
    values = {"ad": (BEFORE, AFTER), "site": (("s", "t"), ("t", "u"))}
    compared = 0
    for before, after, initial in zip(model.modules(), grown.modules(), fresh.modules(), strict=True):
        if not isinstance(before, FeaturesEmbedding):
            continue
        starts = dict(zip((f.name for f in before.fields), first_rows(before.fields), strict=True))
        for field, start in zip(after.fields, first_rows(after.fields), strict=True):
            of_values = values.get(field.same_values_as or field.name)
            for row in range(field.cardinality):
                origin: int | None = row
                if of_values is not None and row >= FIRST_ID:
                    value = of_values[1][row - FIRST_ID]
                    origin = FIRST_ID + of_values[0].index(value) if value in of_values[0] else None
                expected = (
                    initial.table.weight[start + row]
                    if origin is None
                    else before.table.weight[starts[field.name] + origin]
                )
                assert torch.equal(after.table.weight[start + row], expected)
                compared += 1
    assert compared > 60


@pytest.mark.parametrize("storage", ["qr", "hashed"])
def test_a_field_whose_ids_share_rows_keeps_them(storage: Any) -> None:
    old = a_schema()
    choice = EmbeddingChoice(storage, collisions=2, least_ids=8, pooling="sum")
    model, hyperparameters = a_model("deep_fwfm", old, embedding=choice)
    assert fixed_fields(model, hyperparameters) == {"ad", "user"}
    new = a_schema(sites=("t", "u", "s"))
    grown = carried(model, "deep_fwfm", hyperparameters, old, new)
    assert grown.fields == model_fields(new, choice)
    ads = ("a", "f", "never")
    assert np.array_equal(logits_of(grown, new, ads), logits_of(model, old, ads))


def test_fields_with_more_than_a_row_for_each_id_are_fixed() -> None:
    schema = a_schema()
    star, _ = a_model("star", schema)
    assert domain_of(star) == "site"
    assert fixed_fields(star, {}) == {"site"}
    crosses = [["site", "ad"]]
    wide, hyperparameters = a_model("wide_deep", schema, crosses=crosses)
    assert fixed_fields(wide, hyperparameters) == {"site", "ad"}
    plain, _ = a_model("deep_fwfm", schema)
    assert fixed_fields(plain, {}) == frozenset()
    assert domain_of(plain) is None
