"""NFM against its equations, and its normalization against its folded form."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from models.fields import Field
from models.layers import BatchNorm
from models.nfm import NFM
from tests.models.layouts import LAYOUTS, PLAIN, randomized, some_ids


def with_statistics(model: NFM) -> NFM:
    model = randomized(model)
    if isinstance(model.normalize, BatchNorm):
        model.normalize.running_mean.copy_(torch.tensor([0.5, -0.2, 0.1]))
        model.normalize.running_var.copy_(torch.tensor([0.3, 2.0, 1e-6]))
    return model


def pairs_by_loop(embeddings: Tensor) -> Tensor:
    pairs = itertools.combinations(embeddings, 2)
    return torch.stack([left * right for left, right in pairs]).sum(dim=0)


@pytest.mark.parametrize("batch_norm", [True, False])
@pytest.mark.parametrize("fields", LAYOUTS)
def test_nfm_is_its_equations(fields: tuple[Field, ...], batch_norm: bool) -> None:
    model = with_statistics(NFM(fields, dim=3, hidden_units=(5, 4), batch_norm=batch_norm))
    ids = some_ids(fields, 9)
    vectors, weights = model.embedding(ids), model.wide.embedding(ids)
    for row, logit in enumerate(model(ids)):
        hidden = pairs_by_loop(vectors[row])
        if batch_norm:
            normalize = model.normalize
            centred = (hidden - normalize.running_mean) / torch.sqrt(normalize.running_var + 1e-5)
            hidden = centred * normalize.weight + normalize.bias
        for layer in model.mlp.hidden:
            hidden = (layer.weight @ hidden + layer.bias).clamp(min=0)
        expected = model.mlp.output.weight[0] @ hidden + model.mlp.output.bias[0]
        linear = sum(weights[row, i, 0] for i in range(len(fields)))
        torch.testing.assert_close(logit, model.bias + linear + expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("hidden_units", [(), (5,), (5, 4)])
def test_the_normalization_folds_into_the_next_layer(hidden_units: tuple[int, ...]) -> None:
    model = with_statistics(NFM(PLAIN, dim=3, hidden_units=hidden_units))
    before = {name: values.clone() for name, values in model.state_dict().items()}
    folded, ids = model.folded(), some_ids(PLAIN, 50)
    assert not any("normalize" in name for name in folded.state_dict())
    torch.testing.assert_close(folded(ids), model(ids), rtol=1e-4, atol=1e-4)
    assert all(torch.equal(values, before[name]) for name, values in model.state_dict().items())


def test_without_normalization_nothing_is_left_to_fold() -> None:
    model = randomized(NFM(PLAIN, batch_norm=False))
    ids = some_ids(PLAIN, 20)
    assert torch.equal(model.folded()(ids), model(ids))


def test_a_last_batch_of_one_row_can_be_trained_on() -> None:
    model = with_statistics(NFM(PLAIN, dim=3, dropout=0.0))
    ids = some_ids(PLAIN, 1)
    expected = model(ids)
    torch.testing.assert_close(model.train()(ids), expected)


def test_training_normalizes_by_the_batch_and_remembers() -> None:
    model = randomized(NFM(PLAIN, dim=3, dropout=0.0)).train()
    ids = some_ids(PLAIN, 50)
    pooled = model.interaction(model.embedding(ids))
    model(ids)
    torch.testing.assert_close(model.normalize.running_mean, 0.1 * pooled.mean(dim=0))
    torch.testing.assert_close(model.normalize.running_var, 0.9 + 0.1 * pooled.var(dim=0))


def test_defaults_are_the_papers() -> None:
    model = NFM(PLAIN)
    assert [layer.out_features for layer in model.mlp.hidden] == [64]
    assert model.dropout.share == model.mlp.dropout.share == 0.5
