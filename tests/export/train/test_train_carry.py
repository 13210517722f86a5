"""Weights go to a model with other values: rows by value, all else as it is, for every model of the zoo."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from export.data.past import origins
from export.train.build import build_model, model_fields
from export.train.carry import carried, domain_of, fixed_fields
from export.train.choices import EmbeddingChoice
from export.train.loop import predict_logits
from models import MODELS
from models.embedding import FeaturesEmbedding
from models.fields import first_rows
from service.bundle.encoder import Encoder
from service.bundle.schema import Bins, Field, Hashing, Kind, Role, Schema, Vocabulary

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
    """Known values under their new ids, and new values as the unseen ones that they were."""
    old = a_schema()
    model, hyperparameters = a_model(name, old)
    domain = domain_of(model)
    hyperparameters |= {} if domain is None else {"domain": domain}
    new = a_schema(AFTER)
    grown = carried(model, name, hyperparameters, old, new)
    assert grown.fields == model_fields(new)
    ads = ("a", "b", "c", "f", "new", "newest", "never")
    assert np.array_equal(logits_of(grown, new, ads), logits_of(model, old, ads))
    same = carried(model, name, hyperparameters, old, old)
    assert all(torch.equal(value, same.state_dict()[key]) for key, value in model.state_dict().items())


def test_rows_are_those_of_a_naive_loop() -> None:
    old, new = a_schema(), a_schema(AFTER, sites=("t", "u"))
    model, hyperparameters = a_model("deepfm", old)
    grown = carried(model, "deepfm", hyperparameters, old, new)
    found = origins(old, new)
    tables = [(one, two) for one, two in zip(model.modules(), grown.modules(), strict=True)
              if isinstance(one, FeaturesEmbedding)]  # fmt: skip
    assert tables
    for before, after in tables:
        starts = dict(zip((f.name for f in before.fields), first_rows(before.fields), strict=True))
        for field, start in zip(after.fields, first_rows(after.fields), strict=True):
            for row in range(field.cardinality):
                expected = before.table.weight[starts[field.name] + found[field.name][row]]
                assert torch.equal(after.table.weight[start + row], expected)


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
