"""DIFM against its formula: an FM whose weights and vectors carry each row's factors."""

from __future__ import annotations

import itertools

import pytest
import torch

from models.difm import DIFM
from models.fields import Field

FIELDS = (Field("site", 5), Field("history", 4, width=2), Field("ad", 6))
IDS = torch.tensor([[0, 1, 2, 1], [4, 3, 0, 5], [2, 0, 0, 2]])


def test_factors_weigh_the_first_and_the_second_order() -> None:
    torch.manual_seed(0)
    model = DIFM(FIELDS, dim=4, hidden_units=(5,), attention_dim=3).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    embeddings, weights = model.embedding(IDS), model.wide.embedding(IDS)[:, :, 0]
    found = model(IDS)
    for row, vectors in enumerate(embeddings):
        attended = model.attention(embeddings)[row].flatten()
        factors = model.vector_wise.weight @ attended + model.mlp(embeddings.flatten(1))[row]
        expected = model.bias + sum(m * w for m, w in zip(factors, weights[row], strict=True))
        for i, j in itertools.combinations(range(len(FIELDS)), 2):
            expected = expected + torch.dot(factors[i] * vectors[i], factors[j] * vectors[j])
        torch.testing.assert_close(found[row], expected)


def test_a_fresh_one_is_nearly_a_factorization_machine() -> None:
    torch.manual_seed(0)
    model = DIFM(FIELDS).eval()
    embeddings = model.embedding(IDS)
    plain = model.wide(IDS) + model.interaction(embeddings).sum(dim=1)
    torch.testing.assert_close(model(IDS), plain, rtol=0.15, atol=1e-3)


def test_attention_is_scaled_as_in_the_transformer() -> None:
    assert DIFM(FIELDS, heads=3, attention_dim=16).attention.scale == 0.25


def test_a_single_field_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'fields' must be at least two \(got 1\)"):
        DIFM(FIELDS[:1])
