"""BST's transformer against the equations, element by element, and against torch's own."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models.bst import BST, Attention, BehaviorTransformer, TransformerLayer, waves
from models.fields import PADDING_ID, Field
from tests.models.layouts import randomized, some_ids
from tests.models.onnx_graphs import onnx_logits

FIELDS = (
    Field("seen", 8, width=4, same_values_as="ad"),
    Field("user", 5),
    Field("tags", 6, width=2),
    Field("ad", 8, role="candidate"),
    Field("hour", 3),
)


def some(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def attention_by_the_book(layer: Attention, asking: Tensor, sequence: list[Tensor]) -> Tensor:
    """asking [width] over those elements [width] that are there."""
    heads = []
    for first in range(0, len(asking), layer.share):
        of_head = slice(first, first + layer.share)
        query, keys, values = (
            layer.query.weight[of_head] @ asking,
            [layer.key.weight[of_head] @ element for element in sequence],
            [layer.value.weight[of_head] @ element for element in sequence],
        )
        exponentials = [torch.exp(query @ key / math.sqrt(layer.share)) for key in keys]
        total = sum(exponentials)
        heads.append(sum(each / total * value for each, value in zip(exponentials, values, strict=True)))
    return layer.output.weight @ torch.cat(heads)


def normalized_by_the_book(vector: Tensor, norm: nn.LayerNorm) -> Tensor:
    mean = vector.sum() / len(vector)
    variance = ((vector - mean) ** 2).sum() / len(vector)
    return (vector - mean) / torch.sqrt(variance + 1e-5) * norm.weight + norm.bias


def layer_by_the_book(layer: TransformerLayer, asking: Tensor, sequence: list[Tensor]) -> Tensor:
    found = normalized_by_the_book(
        asking + attention_by_the_book(layer.attention, asking, sequence), layer.after_attention
    )
    inner = layer.inner.weight @ found + layer.inner.bias
    inner = torch.where(inner > 0, inner, 0.01 * inner)
    fed = layer.outer.weight @ inner + layer.outer.bias
    return normalized_by_the_book(found + fed, layer.after_layer)


def transformed_by_the_book(
    transformer: BehaviorTransformer, elements: Tensor, target: Tensor, ids: list[int]
) -> dict[str, Tensor]:
    """Outputs for the ad, their mean over it and the elements that are there, and of these for each place."""
    places = [
        torch.cat([vector, position])
        for vector, position in zip([*elements, target], transformer.positions, strict=True)
    ]
    is_there = [id_ != PADDING_ID for id_ in ids] + [True]
    for layer in transformer.layers:
        assert isinstance(layer, TransformerLayer)
        known = [place for place, there in zip(places, is_there, strict=True) if there]
        places = [layer_by_the_book(layer, place, known) for place in places]
    known = [place for place, there in zip(places, is_there, strict=True) if there]
    return {"ad": places[-1], "mean": torch.stack(known).mean(dim=0), "all": torch.cat(places)}


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("outputs", ["ad", "mean", "all"])
def test_bst_is_its_equations(outputs: Any, layers: int) -> None:
    model = BST(FIELDS, dim=3, hidden_units=(5,), layers=layers, heads=2, outputs=outputs)
    model = randomized(model).double()
    ids = some_ids(FIELDS, 20)
    ids[0, :4] = PADDING_ID
    ids[1, 5:7] = PADDING_ID
    rows, embeddings, logits = model.embedding.rows(ids), model.embedding(ids), model(ids)
    for row in range(20):
        interests = []
        for transformer, columns in zip(model.transformers, (slice(0, 4), slice(5, 7)), strict=True):
            assert isinstance(transformer, BehaviorTransformer)
            interests.append(
                transformed_by_the_book(
                    transformer, rows[row, columns], rows[row, 7], ids[row, columns].tolist()
                )[outputs]
            )
        seen, tags = interests
        inputs = torch.cat([seen, embeddings[row, 1], tags, embeddings[row, 3], embeddings[row, 4]])
        torch.testing.assert_close(logits[row], model.mlp(inputs[None])[0])


def test_a_layer_is_torchs_own_with_another_activation() -> None:
    layer = randomized(TransformerLayer(6, heads=2, dropout=0.0))
    other = nn.TransformerEncoderLayer(
        6, 2, 6, 0.0, activation=nn.functional.leaky_relu, batch_first=True
    ).eval()
    own = layer.attention
    pairs = {
        other.self_attn.out_proj: own.output,
        other.linear1: layer.inner,
        other.linear2: layer.outer,
        other.norm1: layer.after_attention,
        other.norm2: layer.after_layer,
    }
    with torch.no_grad():
        packed = torch.cat([own.query.weight, own.key.weight, own.value.weight])
        other.self_attn.in_proj_weight.copy_(packed)
        other.self_attn.in_proj_bias.zero_()
        other.self_attn.out_proj.bias.zero_()
        for theirs, ours in pairs.items():
            theirs.weight.copy_(ours.weight)
            if ours.bias is not None:
                theirs.bias.copy_(ours.bias)
    sequence, present = some(3, 5, 6), torch.tensor([[1.0] * 5, [1.0, 0.0, 1.0, 0.0, 1.0], [0.0] * 4 + [1.0]])
    expected = other(sequence, src_key_padding_mask=present == 0)
    found = layer(sequence, sequence, ((1.0 - present) * -1e4).unsqueeze(1))
    torch.testing.assert_close(found, expected)


def test_what_lies_in_places_without_an_element_changes_nothing() -> None:
    transformer = randomized(BehaviorTransformer(4, 3, 2, 2, 0.0, "mean"))
    elements, target = some(2, 4, 3), some(2, 3)
    present = torch.tensor([[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    others = torch.where(present.unsqueeze(2) > 0, elements, elements * 50.0 + 1.0)
    assert torch.equal(transformer(elements, target, present), transformer(others, target, present))


def test_order_matters_and_so_does_the_ad() -> None:
    model, ids = randomized(BST(FIELDS, dim=4)), some_ids(FIELDS, 40)
    turned, other = ids.clone(), ids.clone()
    turned[:, :4] = ids[:, :4].flip(1)
    other[:, 7] = (ids[:, 7] + 1) % 8
    for changed in (turned, other):
        assert (model(changed) - model(ids)).abs().mean() > 1e-3


def test_positions_start_as_waves() -> None:
    found = waves(7, 5)
    for place in range(7):
        for element in range(5):
            angle = place / 10_000 ** (element // 2 * 2 / 5)
            expected = math.cos(angle) if element % 2 else math.sin(angle)
            assert float(found[place, element]) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("outputs", ["ad", "mean", "all"])
def test_its_graph_equals_it(outputs: Any) -> None:
    model, ids = randomized(BST(FIELDS, dim=4, layers=2, outputs=outputs), scale=0.3), some_ids(FIELDS, 30)
    torch.testing.assert_close(onnx_logits(model, ids), model(ids), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"layers": 0}, r"'layers' must be at least 1 \(got 0\)"),
        ({"heads": 0}, r"'heads' must be at least 1 \(got 0\)"),
        ({"heads": 3}, r"'heads' must divide 20, an embedding and a position \(got 3\)"),
        ({"outputs": "last"}, r"'outputs' must be ad, mean or all \(got 'last'\)"),
        ({"dim": 0, "heads": 3}, r"'dim' must be at least 1 \(got 0\)"),
        ({"target": "size"}, r"'target' must be one of the fields seen, .* \(got 'size'\)"),
    ],
)
def test_what_makes_no_transformer_is_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BST(FIELDS, **wrong)
