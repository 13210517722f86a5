"""MMoE against its formula, row by row and expert by expert."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from models.fields import Field
from models.mmoe import Experts, MMoE
from tests.models.layouts import LAYOUTS, PLAIN, SEQUENCES, randomized, some_ids

HOUR = {PLAIN: 1, SEQUENCES: 6}  # the column of the field with the fewest ids


def expert_by_loop(experts: Experts, number: int, inputs: Tensor) -> Tensor:
    weights = experts.first.weight.unflatten(0, (experts.n_experts, -1))[number]
    biases = experts.first.bias.unflatten(0, (experts.n_experts, -1))[number]
    hidden = (weights @ inputs + biases).clamp(min=0)
    for weight, bias in zip(experts.weights, experts.biases, strict=True):
        hidden = (hidden @ weight[number] + bias[number, 0]).clamp(min=0)
    return hidden


@pytest.mark.parametrize("hidden_units", [(4,), (5, 4), (5, 3, 4)])
@pytest.mark.parametrize("fields", LAYOUTS)
def test_a_domains_gate_mixes_experts_for_its_tower(
    fields: tuple[Field, ...], hidden_units: tuple[int, ...]
) -> None:
    model = randomized(MMoE(fields, dim=3, hidden_units=hidden_units, experts=3, tower_units=(6, 2)))
    ids = some_ids(fields, 12)
    embeddings, logits = model.embedding(ids), model(ids)
    flat = embeddings.flatten(1)
    torch.testing.assert_close(model.experts.folded()(flat), model.experts(flat))
    for row, domain in enumerate(ids[:, HOUR[fields]].tolist()):
        inputs = torch.cat(list(embeddings[row]))
        gate = (model.gates.maps.weight[domain * 3 : domain * 3 + 3] @ inputs).softmax(dim=0)
        hidden = sum(gate[i] * expert_by_loop(model.experts, i, inputs) for i in range(3))
        for number, layer in enumerate(model.towers):
            outputs = slice(domain * layer.out_features, (domain + 1) * layer.out_features)
            hidden = layer.maps.weight[outputs] @ hidden + layer.maps.bias[outputs]
            hidden = hidden.clamp(min=0) if number < 2 else hidden
        torch.testing.assert_close(logits[row], model.bias + hidden[0])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"experts": 0}, "'experts' must be at least 1"),
        ({"hidden_units": ()}, "'hidden_units' must be one number a layer, each at least 1, and 1 or more"),
    ],
)
def test_invalid_experts_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MMoE(PLAIN, **wrong)


def test_defaults_are_those_the_docstring_names() -> None:
    model = MMoE(PLAIN)
    assert model.experts.n_experts == 8
    assert model.experts.first.out_features == 8 * 256
    assert [tuple(weight.shape) for weight in model.experts.weights] == [(8, 256, 128)]
    assert [layer.maps.weight.shape for layer in model.towers] == [(3 * 64, 128), (3, 64)]
