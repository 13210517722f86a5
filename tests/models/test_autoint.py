"""AutoInt's interacting layer against its equations, field by field and head by head."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from models.autoint import AutoInt
from models.fields import Field
from models.layers import InteractingLayer

FIELDS = (Field("site", 5), Field("hour", 4), Field("ad", 6))


def interacted_by_the_book(layer: InteractingLayer, row: Tensor) -> Tensor:
    """Equations 5 to 8 for one row e [n_fields, dim]."""
    size, heads = layer.attention_dim, layer.heads
    fields = []
    for own in row:
        per_head = []
        for head in range(heads):
            own_rows = slice(head * size, (head + 1) * size)
            query, key, value = (w.weight[own_rows] for w in (layer.query, layer.key, layer.value))
            scores = [layer.scale * torch.dot(query @ own, key @ other) for other in row]
            weights = torch.stack(scores).exp() / torch.stack(scores).exp().sum()
            terms = [weight * (value @ other) for weight, other in zip(weights, row, strict=True)]
            per_head.append(torch.stack(terms).sum(dim=0))
        fields.append(torch.relu(torch.cat(per_head) + layer.residual.weight @ own))
    return torch.stack(fields)


@pytest.mark.parametrize(("heads", "scaled"), [(1, False), (2, False), (3, True)])
def test_interacting_layer_follows_the_equations(heads: int, scaled: bool) -> None:
    torch.manual_seed(0)
    layer = InteractingLayer(dim=5, heads=heads, attention_dim=4, scaled=scaled)
    embeddings = 2.0 * torch.randn(6, 3, 5)
    expected = torch.stack([interacted_by_the_book(layer, row) for row in embeddings])
    torch.testing.assert_close(layer(embeddings), expected)
    assert layer.scale == (0.5 if scaled else 1.0)


@pytest.mark.parametrize("hidden_units", [(), (4,)])
def test_the_logit_reads_all_fields_of_the_last_layer(hidden_units: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    model = AutoInt(FIELDS, dim=3, hidden_units=hidden_units, attention_layers=2, attention_dim=4).eval()
    torch.nn.init.normal_(model.embedding.table.weight)
    torch.nn.init.constant_(model.bias, 0.25)
    ids = torch.tensor([[0, 1, 2], [4, 3, 5]])
    embeddings = model.embedding(ids)
    expected = torch.full((2,), 0.25)
    for row, vectors in enumerate(embeddings):
        for layer in model.interacting:
            assert isinstance(layer, InteractingLayer)
            vectors = interacted_by_the_book(layer, vectors)
        expected[row] += torch.dot(model.output.weight[0], vectors.flatten())
    if model.mlp is not None:
        expected = expected + model.mlp(embeddings.flatten(1))
    assert (model.mlp is None) is (hidden_units == ())
    torch.testing.assert_close(model(ids), expected)


def test_defaults_are_the_papers() -> None:
    model = AutoInt(FIELDS)
    assert [layer.heads for layer in model.interacting] == [2, 2, 2]
    assert [layer.attention_dim for layer in model.interacting] == [32, 32, 32]
    assert model.output.weight.shape == (1, 3 * 64)


def test_heads_of_different_lengths_are_heads_with_zeros() -> None:
    torch.manual_seed(0)
    whole, cut = InteractingLayer(5, 2, 4), InteractingLayer(5, 2, 4, sizes=[(2, 3), (4, 1)])
    queries, values = [0, 1, 4, 5, 6, 7], [0, 1, 2, 4]
    with torch.no_grad():
        for name, kept in (("query", queries), ("key", queries), ("value", values), ("residual", values)):
            weight = getattr(whole, name).weight
            getattr(cut, name).weight.copy_(weight[kept])
            weight[[row for row in range(8) if row not in kept]] = 0.0
    embeddings = torch.randn(3, 6, 5)
    torch.testing.assert_close(cut(embeddings), whole(embeddings)[:, :, values])


@pytest.mark.parametrize("wrong", [[], [[(2, 3)]], [[], [(1, 1)]], [[(0, 1)], [(1, 1)]]])
def test_heads_that_no_layer_can_have_are_refused(wrong: Any) -> None:
    with pytest.raises(ValueError, match="'head_sizes' must be"):
        AutoInt(FIELDS, attention_layers=2, head_sizes=wrong)


@pytest.mark.parametrize("wrong", [{"heads": 0}, {"attention_dim": 0}, {"attention_layers": 0}])
def test_attention_without_size_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=rf"'{next(iter(wrong))}' must be at least 1 \(got 0\)"):
        AutoInt(FIELDS, **wrong)
