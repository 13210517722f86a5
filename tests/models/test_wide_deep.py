"""Wide & Deep against its equations; its crosses against enumerated combinations."""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter

import pytest
import torch

from models.fields import Field
from models.wide_deep import MULTIPLIER, PRIME, CrossProducts, WideDeep
from tests.models.layouts import LAYOUTS, PLAIN, SEQUENCES, randomized, some_ids
from tests.models.onnx_graphs import onnx_logits

CROSSES = [["site", "ad"], ["device", "hour", "site"], ["ad", "hour"]]


@pytest.mark.parametrize("fields", LAYOUTS)
def test_wide_and_deep_add_up(fields: tuple[Field, ...]) -> None:
    crosses = [["site", "hour"]]
    model = randomized(WideDeep(fields, dim=3, hidden_units=(5, 4), crosses=crosses))
    ids = some_ids(fields, 9)
    vectors, weights = model.embedding(ids), model.wide.embedding(ids)
    hour = sum(field.width for field in fields[: [field.name for field in fields].index("hour")])
    hours = next(field.cardinality for field in fields if field.name == "hour")
    assert model.crosses is not None
    for row, logit in enumerate(model(ids)):
        hidden = torch.cat(list(vectors[row]))
        for layer in model.mlp.hidden:
            hidden = (layer.weight @ hidden + layer.bias).clamp(min=0)
        expected = model.bias + model.mlp.output.weight[0] @ hidden + model.mlp.output.bias[0]
        expected = expected + sum(weights[row, i, 0] for i in range(len(fields)))
        crossed = int(ids[row, 0]) * hours + int(ids[row, hour])
        torch.testing.assert_close(logit, expected + model.crosses.weights.weight[crossed, 0])


def test_every_combination_that_fits_has_a_weight_of_its_own() -> None:
    layer = CrossProducts(PLAIN, CROSSES, buckets=60)
    assert layer.weights.num_embeddings == 30 + 60 + 18
    ids = torch.tensor(list(itertools.product(*(range(field.cardinality) for field in PLAIN))))
    rows = layer.weight_rows(ids)
    for cross, (first, count) in enumerate([(0, 30), (30, 60), (90, 18)]):
        columns = [[field.name for field in PLAIN].index(name) for name in CROSSES[cross]]
        found = dict(zip(map(tuple, ids[:, columns].tolist()), rows[:, cross].tolist(), strict=True))
        assert sorted(found.values()) == list(range(first, first + count))


def test_more_combinations_than_buckets_are_hashed_as_written() -> None:
    layer = randomized(CrossProducts(PLAIN, CROSSES, buckets=20))
    ids = some_ids(PLAIN, 40)
    names = [field.name for field in PLAIN]
    for row, weight in zip(ids.tolist(), layer(ids), strict=True):
        expected = torch.zeros(())
        for position, cross in enumerate(CROSSES):
            values = [row[names.index(name)] for name in cross]
            if cross == ["ad", "hour"]:  # 18 combinations fit into 20 buckets
                place = 40 + values[0] * 3 + values[1]
            else:
                terms = (value * MULTIPLIER ** (k + 1) % PRIME for k, value in enumerate(values))
                place = position * 20 + sum(terms) % 20
            expected = expected + layer.weights.weight[place, 0]
        torch.testing.assert_close(weight, expected)


@pytest.mark.parametrize("buckets", [1000, 1009, 1024])
@pytest.mark.parametrize("sides", [(100, 70), (40, 20, 10), (2**30, 8)])
def test_hashed_combinations_are_distributed_like_random_ones(sides: tuple[int, ...], buckets: int) -> None:
    fields = tuple(Field(f"field{position}", side) for position, side in enumerate(sides))
    layer = CrossProducts(fields, [[field.name for field in fields]], buckets)
    generator = torch.Generator().manual_seed(3)
    drawn = torch.stack([torch.randint(0, side, (20_000,), generator=generator) for side in sides], dim=1)
    distinct = torch.unique(drawn, dim=0)
    rows = Counter(layer.weight_rows(distinct)[:, 0].tolist())
    assert set(rows) <= set(range(buckets))
    # The share of empty buckets, e^-load, and the load of the fullest bucket.
    load = len(distinct) / buckets
    assert buckets - len(rows) <= 2 * buckets * math.exp(-load) + 3
    assert max(rows.values()) < load + 8 * math.sqrt(load)


def test_crosses_learn_what_a_sum_of_weights_cannot() -> None:
    torch.manual_seed(0)
    model = WideDeep(PLAIN, dim=2, hidden_units=(), crosses=[["site", "ad"]]).eval()
    ids = some_ids(PLAIN, 64)
    labels = ((ids[:, 0] + ids[:, 3]) % 2).float()
    assert model.crosses is not None
    optimizer = torch.optim.Adam([*model.crosses.parameters(), *model.wide.parameters()], lr=0.1)
    for _ in range(100):
        optimizer.zero_grad()
        loss = torch.nn.functional.binary_cross_entropy_with_logits(model(ids), labels)
        torch.autograd.backward(loss)
        optimizer.step()
    assert loss < 0.1


@pytest.mark.parametrize("buckets", [17, 100_000])
def test_a_graph_crosses_as_torch_does(buckets: int) -> None:
    fields = (Field("site", 2**21), Field("ad", 2**20), Field("hour", 24))
    crosses = json.loads('[["site", "ad"], ["hour", "ad", "site"], ["hour", "site"]]')
    model = CrossProducts(fields, crosses, buckets)
    with torch.no_grad():
        model.weights.weight.copy_(torch.arange(len(model.weights.weight)).unsqueeze(1))
    ids = some_ids(fields, 500)
    ids[0] = torch.tensor([2**21 - 1, 2**20 - 1, 23])
    assert torch.equal(onnx_logits(model, ids), model(ids))


@pytest.mark.parametrize(
    ("crosses", "message"),
    [
        ([["site", "page"]], "'crosses' must be one of the fields site, history, tags, hour"),
        ([["site"]], "two or more different fields"),
        ([["site", "site"]], "two or more different fields"),
        (["site"], "two or more different fields"),
        ([["site", "history"]], "fields with one id"),
    ],
)
def test_invalid_crosses_are_refused(crosses: list[list[str]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WideDeep(SEQUENCES, crosses=crosses)


@pytest.mark.parametrize("buckets", [0, PRIME])
def test_a_cross_has_weights(buckets: int) -> None:
    with pytest.raises(ValueError, match="'cross_buckets' must be in"):
        WideDeep(PLAIN, crosses=[["site", "ad"]], cross_buckets=buckets)


def test_defaults_are_the_papers() -> None:
    model = WideDeep(PLAIN)
    assert model.crosses is None
    assert [layer.out_features for layer in model.mlp.hidden] == [1024, 512, 256]
