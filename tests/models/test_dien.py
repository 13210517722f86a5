"""DIEN and its parts against the paper's equations, step by step."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from models.dien import DIEN, GatedRecurrence, InterestEvolution, auxiliary_loss
from models.fields import PADDING_ID, Field
from tests.models.layouts import randomized, some_ids

FIELDS = (
    Field("user", 5),
    Field("seen", 8, width=4, same_values_as="ad"),
    Field("ad", 8, role="candidate"),
)


def some(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def test_without_attention_it_is_a_gru() -> None:
    layer = randomized(GatedRecurrence(3))
    gru = torch.nn.GRU(3, 3, batch_first=True)
    with torch.no_grad():  # torch orders its gates reset, update, new, and blends the other way round
        order = torch.cat([torch.arange(3, 6), torch.arange(3), torch.arange(6, 9)])
        signs = torch.tensor([1.0] * 3 + [-1.0] * 3 + [1.0] * 3)
        gru.weight_ih_l0.copy_(layer.input.weight[order] * signs[:, None])
        gru.weight_hh_l0.copy_(layer.state.weight[order] * signs[:, None])
        gru.bias_ih_l0.copy_(layer.input.bias[order] * signs)
        gru.bias_hh_l0.zero_()
    inputs = some(6, 5, 3)
    torch.testing.assert_close(layer(inputs, torch.ones(6, 5)), gru(inputs)[0])


def test_attention_scales_the_update_gate() -> None:
    layer, inputs, scale = randomized(GatedRecurrence(2)), some(4, 3, 2), some(4, 3).sigmoid()
    w, u, b = layer.input.weight, layer.state.weight, layer.input.bias
    for row in range(4):
        state = torch.zeros(2)
        for step in range(3):
            x = inputs[row, step]
            update = torch.sigmoid(w[:2] @ x + b[:2] + u[:2] @ state)
            reset = torch.sigmoid(w[2:4] @ x + b[2:4] + u[2:4] @ state)
            fresh = torch.tanh(w[4:] @ x + b[4:] + reset * (u[4:] @ state))
            weight = scale[row, step] * update
            state = (1 - weight) * state + weight * fresh
            torch.testing.assert_close(layer(inputs, scale)[row, step], state)


def test_interest_evolves_by_attention_over_the_elements_that_are_there() -> None:
    layer = randomized(InterestEvolution(3))
    elements, target = some(2, 4, 3), some(2, 3)
    present = torch.tensor([[1.0, 1.0, 1.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    evolved, interests = layer(elements, target, present)
    scores = [float((interests[0, step] @ layer.attention.weight @ target[0]).detach()) for step in range(3)]
    total = sum(math.exp(score) for score in scores)
    attention = torch.tensor([[math.exp(score) / total for score in scores]])
    expected = layer.evolution(interests[:1, :3], attention)[0, -1]
    torch.testing.assert_close(evolved[0], expected)
    assert evolved[1].tolist() == [0, 0, 0]


def test_the_auxiliary_loss_separates_next_from_random_elements() -> None:
    interests, elements, others = some(3, 4, 2), some(3, 4, 2) + 1, some(3, 4, 2) - 1
    present = torch.tensor([[1.0, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]])
    losses = []
    for row, length in enumerate((4, 2, 1)):
        for step in range(length - 1):
            hit = torch.sigmoid(interests[row, step] @ elements[row, step + 1])
            miss = torch.sigmoid(interests[row, step] @ others[row, step + 1])
            losses.append(-(hit.log() + (1 - miss).log()))
    expected = torch.stack(losses).mean()
    torch.testing.assert_close(auxiliary_loss(interests, elements, others, present), expected)
    assert auxiliary_loss(interests, elements, others, torch.zeros(3, 4)) == 0


def test_the_penalty_is_there_in_training_only_and_weighed() -> None:
    ids = some_ids(FIELDS, 40)
    ids[:, 1:5] = torch.where(ids[:, 1:5] == PADDING_ID, 1, ids[:, 1:5])
    torch.manual_seed(0)
    model = DIEN(FIELDS, dim=4, auxiliary=0.5)
    assert model.penalty is None
    model.train()(ids)
    assert model.penalty is not None
    assert abs(float(model.penalty.detach()) - 0.5 * 2 * math.log(2)) < 0.01  # untrained: even odds
    model.eval()(ids)
    assert model.penalty is None


def test_the_penalty_teaches_the_recurrence_and_the_embeddings() -> None:
    model = DIEN(FIELDS, dim=4).train()
    model(some_ids(FIELDS, 40))
    assert model.penalty is not None
    torch.autograd.backward(model.penalty)
    for parameter in (model.evolutions[0].extraction.state.weight, model.embedding.table.weight):
        assert parameter.grad is not None
        assert parameter.grad.any()


def test_random_elements_are_ids_of_the_history_and_no_padding() -> None:
    fields = (Field("tags", 1, width=2), Field("seen", 3, width=40), Field("ad", 8))
    ids = torch.zeros(50, 43, dtype=torch.int32)
    drawn = DIEN(fields)._random_histories(ids)
    assert drawn[:, :2].unique().tolist() == [0]  # it has no other id
    assert drawn[:, 2:42].unique().tolist() == [1, 2]
    assert torch.equal(drawn[:, 42], ids[:, 42])


@pytest.mark.parametrize("auxiliary", [-1.0, float("nan")])
def test_an_invalid_weight_is_refused(auxiliary: float) -> None:
    with pytest.raises(ValueError, match=rf"'auxiliary' must be at least 0 \(got {auxiliary}\)"):
        DIEN(FIELDS, auxiliary=auxiliary)


def test_order_matters() -> None:
    model, ids = randomized(DIEN(FIELDS, dim=4)), some_ids(FIELDS, 40)
    turned = ids.clone()
    turned[:, 1:5] = ids[:, 1:5].flip(1)
    assert F.l1_loss(model(turned), model(ids)) > 1e-3
