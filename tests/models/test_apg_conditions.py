"""Conditions against their formulas, and that one pass's condition never reaches another."""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor

from models.apg import APGDNN, APGDeepFM
from models.apg_conditions import (
    AGGREGATIONS,
    ConditioningEmbedding,
    Conditions,
    Mixture,
    condition_of_this_pass,
    forward_pass,
)
from models.embedding import FeaturesEmbedding
from models.fields import Field
from tests.models import layouts

FIELDS = (Field("user", 11), Field("history", 8, width=3), Field("hour", 6), Field("ad", 9))
DIM, ROWS = 4, 7


def some_ids(rows: int = ROWS, seed: int = 0) -> Tensor:
    return layouts.some_ids(FIELDS, rows, seed)


def some_embeddings() -> Tensor:
    return torch.randn(ROWS, len(FIELDS), DIM, generator=torch.Generator().manual_seed(1))


def conditions_of(names: list[str], **how: Any) -> Conditions:
    return Conditions(
        FeaturesEmbedding(FIELDS, DIM), names, **{"stage": "input", "aggregation": "mean", **how}
    )


def test_group_wise_it_is_the_embedding_of_the_field() -> None:
    layer, embeddings = conditions_of(["hour"]), some_embeddings()
    assert (layer.size, layer.separate) == (DIM, 1)
    assert torch.equal(layer(embeddings), embeddings[:, 2])


def test_mix_wise_input_aggregation() -> None:
    embeddings = some_embeddings()
    first, second = embeddings[:, 3], embeddings[:, 0]
    mean = conditions_of(["ad", "user"])
    torch.testing.assert_close(mean(embeddings), (first + second) / 2)
    concatenated = conditions_of(["ad", "user"], aggregation="concatenation")
    assert concatenated.size == 2 * DIM
    assert torch.equal(concatenated(embeddings), torch.cat([first, second], dim=1))
    attention = conditions_of(["ad", "user"], aggregation="attention")
    torch.testing.assert_close(attention(embeddings), mean(embeddings))  # before training
    assert attention.mixture is not None
    with torch.no_grad():
        attention.mixture.queries.normal_(generator=torch.Generator().manual_seed(2))
        attention.mixture.biases.copy_(torch.tensor([0.5, -0.5]))
    queries, biases = attention.mixture.queries, attention.mixture.biases
    for row, found in enumerate(attention(embeddings)):
        scores = [torch.dot(queries[j], (first, second)[j][row]) + biases[j] for j in (0, 1)]
        share = 1 / (1 + torch.exp(scores[1] - scores[0]))
        torch.testing.assert_close(found, share * first[row] + (1 - share) * second[row])


def test_output_aggregation_leaves_the_conditions_apart() -> None:
    layer, embeddings = conditions_of(["ad", "user"], stage="output"), some_embeddings()
    assert (layer.size, layer.separate, layer.mixture) == (DIM, 2, None)
    assert torch.equal(layer(embeddings), torch.stack([embeddings[:, 3], embeddings[:, 0]], dim=1))


@pytest.mark.parametrize("how", AGGREGATIONS)
def test_a_mixture_has_the_stated_width(how: Any) -> None:
    mixture = Mixture(how, count=3, size=5)
    assert mixture(torch.randn(2, 3, 5)).shape == (2, mixture.out_features)


@pytest.mark.parametrize(
    ("names", "how", "message"),
    [
        (["town"], {}, "'condition_fields' must be one of the fields user, history, hour, ad"),
        (["ad", "ad"], {}, "'condition_fields' must be distinct"),
        (["ad"], {"stage": "middle"}, "'aggregate_at' must be input or output"),
        (["ad"], {"aggregation": "sum"}, "'aggregation' must be concatenation, mean or attention"),
    ],
)
def test_conditions_that_cannot_be_are_refused(names: list[str], how: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        conditions_of(names, **how)


def test_a_condition_lasts_as_long_as_its_pass() -> None:
    embedding = ConditioningEmbedding(FeaturesEmbedding(FIELDS, DIM), conditions_of(["ad"]))
    ids = some_ids()
    embedding(ids)  # outside a forward pass nothing is stored
    with pytest.raises(RuntimeError, match="must be set before the layer runs"):
        condition_of_this_pass()
    with forward_pass():
        with pytest.raises(RuntimeError, match="must be set before"):
            condition_of_this_pass()
        embedding(ids)
        outer = condition_of_this_pass()
        with forward_pass():
            embedding(some_ids(3, seed=5))
            assert condition_of_this_pass().shape == (3, DIM)
        assert condition_of_this_pass() is outer
    with pytest.raises(RuntimeError, match="must be set before"):
        condition_of_this_pass()


def test_a_pass_that_fails_leaves_nothing_behind() -> None:
    model = APGDNN(FIELDS, hidden_units=(8,), condition_fields="ad").eval()
    with pytest.raises(IndexError):
        model(some_ids() + 100)
    with pytest.raises(RuntimeError, match="must be set before"):
        model.mlp(torch.zeros(2, len(FIELDS) * 10))


def test_to_a_reader_the_embedding_is_the_one_within() -> None:
    model = APGDNN(FIELDS, hidden_units=(8,), condition_fields=["ad"])
    plain = copy.deepcopy(model.embedding.inner)
    assert model.embedding.table is model.embedding.inner.table
    assert model.embedding.fields == FIELDS
    assert torch.equal(model.embedding.rows(some_ids()), plain.rows(some_ids()))
    assert torch.equal(model.embedding(some_ids()), plain(some_ids()))
    with pytest.raises(AttributeError, match="nothing_of_the_kind"):
        _ = model.embedding.nothing_of_the_kind


def test_models_in_several_threads_do_not_see_each_others_conditions() -> None:
    torch.manual_seed(0)
    models = [
        APGDNN(FIELDS, hidden_units=(16, 8), condition_fields="ad").eval(),
        APGDeepFM(FIELDS, hidden_units=(16,), condition_fields=["user", "hour"]).eval(),
    ]
    work = [(model, some_ids(rows=1 + seed % 9, seed=seed)) for seed in range(120) for model in models]
    with torch.no_grad(), ThreadPoolExecutor(8) as threads:
        expected = [model(ids) for model, ids in work]
        found = list(threads.map(lambda task: task[0](task[1]), work))
    for alone, together in zip(expected, found, strict=True):
        torch.testing.assert_close(together, alone)
