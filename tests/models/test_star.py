"""STAR against its equations, row by row, in training and in evaluation."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from models.domains import domain_result_rows
from models.fields import Field
from models.star import STAR, PartitionedNorm, StarLinear
from tests.models.layouts import LAYOUTS, PLAIN, SEQUENCES, randomized, some_ids

HOUR = {PLAIN: 1, SEQUENCES: 6}  # the column of the field with the fewest ids


def trained_norm(n_domains: int, features: int) -> PartitionedNorm:
    """A normalization with random weights and statistics."""
    norm = randomized(PartitionedNorm(n_domains, features))
    give_statistics(norm)
    return norm


def give_statistics(norm: PartitionedNorm) -> None:
    generator = torch.Generator().manual_seed(5)
    norm.running_mean.normal_(generator=generator)
    spread = torch.rand(norm.running_mean.shape, generator=generator) + 0.1
    norm.running_square.copy_(norm.running_mean.square() + spread)


def normalized_by_loop(norm: PartitionedNorm, row: Tensor, k: int, mean: Tensor, variance: Tensor) -> Tensor:
    centred = (row - mean) / torch.sqrt(variance + norm.eps)
    return centred * (norm.gamma * norm.domain_gamma[k]) + norm.beta + norm.domain_beta[k]


def test_evaluation_normalizes_by_the_moving_statistics_of_the_domain() -> None:
    norm, inputs, domains = trained_norm(3, 4), torch.randn(8, 4), torch.tensor([0, 1, 2, 1, 1, 0, 2, 2])
    variance = norm.running_square - norm.running_mean.square()
    for row, k, found in zip(inputs, domains.tolist(), norm(inputs, domains.int()), strict=True):
        expected = normalized_by_loop(norm, row, k, norm.running_mean[k], variance[k])
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_training_normalizes_by_the_batchs_rows_of_the_domain_and_remembers() -> None:
    norm = trained_norm(4, 3).train()
    inputs = torch.randn(110, 3, generator=torch.Generator().manual_seed(6)) * 2 + 1
    domains = torch.tensor([0] * 40 + [1] * 60 + [2] * 8 + [0] * 2)  # too few of domain 2, none of 3
    before_mean, before_square = norm.running_mean.clone(), norm.running_square.clone()
    found = norm(inputs, domains)
    for k, momentum in [(0, 0.1), (1, 0.1), (2, 0.1 * 8 / 32), (3, 0.0)]:
        rows = inputs[domains == k]
        mean, variance = before_mean[k], before_square[k] - before_mean[k].square()
        if len(rows) >= 32:
            mean, variance = rows.mean(dim=0), rows.var(dim=0, correction=0)
        for row, normalized in zip(rows, found[domains == k], strict=True):
            expected = normalized_by_loop(norm, row, k, mean, variance)
            torch.testing.assert_close(normalized, expected, rtol=1e-4, atol=1e-5)
        if len(rows):
            moved = before_mean[k] + momentum * (rows.mean(dim=0) - before_mean[k])
            torch.testing.assert_close(norm.running_mean[k], moved)
            moved = before_square[k] + momentum * (rows.square().mean(dim=0) - before_square[k])
            torch.testing.assert_close(norm.running_square[k], moved)
        else:
            assert torch.equal(norm.running_mean[k], before_mean[k])


def test_the_moving_statistics_become_those_of_the_domain_however_few_rows_a_batch_has_of_it() -> None:
    torch.manual_seed(0)
    norm = PartitionedNorm(2, 1).train()
    for _ in range(800):
        inputs = torch.cat([torch.randn(50, 1) * 0.5 + 3.0, torch.randn(4, 1) * 2.0 - 1.0])
        norm(inputs, torch.tensor([0] * 50 + [1] * 4))
    torch.testing.assert_close(norm.running_mean[:, 0], torch.tensor([3.0, -1.0]), atol=0.25, rtol=0)
    deviation = (norm.running_square - norm.running_mean.square()).sqrt()
    torch.testing.assert_close(deviation[:, 0], torch.tensor([0.5, 2.0]), atol=0.25, rtol=0)


def test_a_domains_weights_are_its_own_times_the_shared_ones() -> None:
    layer = randomized(StarLinear(3, in_features=4, out_features=2))
    inputs, domains = torch.randn(7, 4), torch.tensor([0, 1, 2, 1, 1, 0, 2])
    places = domain_result_rows(domains, 3)
    for row, k, found in zip(inputs, domains.tolist(), layer(inputs, places), strict=True):
        expected = (layer.shared.weight * layer.weight[k]) @ row + layer.shared.bias + layer.bias[k]
        torch.testing.assert_close(found, expected)
    torch.testing.assert_close(layer.product()(inputs, places), layer(inputs, places))


@pytest.mark.parametrize("fields", LAYOUTS)
def test_star_is_its_normalized_network_and_the_auxiliary_one(fields: tuple[Field, ...]) -> None:
    model = randomized(STAR(fields, dim=3, hidden_units=(5, 4), auxiliary_units=(6,)))
    give_statistics(model.normalize)
    ids = some_ids(fields, 12)
    inputs, logits = model.embedding(ids).flatten(1), model(ids)
    norm, auxiliary = model.normalize, model.auxiliary(inputs)
    for row, k in enumerate(ids[:, HOUR[fields]].tolist()):
        variance = norm.running_square[k] - norm.running_mean[k].square()
        hidden = normalized_by_loop(norm, inputs[row], k, norm.running_mean[k], variance)
        for number, layer in enumerate(model.layers):
            weight = layer.shared.weight * layer.weight[k]
            hidden = weight @ hidden + layer.shared.bias + layer.bias[k]
            hidden = hidden.clamp(min=0) if number < 2 else hidden
        expected = model.bias + hidden[0] + auxiliary[row]
        torch.testing.assert_close(logits[row], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("hidden_units", [(), (5,), (5, 4)])
def test_folded_it_has_neither_shared_weights_nor_a_normalization(hidden_units: tuple[int, ...]) -> None:
    model = randomized(STAR(PLAIN, dim=3, hidden_units=hidden_units))
    give_statistics(model.normalize)
    before = {name: values.clone() for name, values in model.state_dict().items()}
    folded, ids = model.folded(), some_ids(PLAIN, 50)
    assert not any("normalize" in name or "shared" in name for name in folded.state_dict())
    torch.testing.assert_close(folded(ids), model(ids), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(folded.folded()(ids), model(ids), rtol=1e-4, atol=1e-4)
    assert all(torch.equal(values, before[name]) for name, values in model.state_dict().items())


def test_domains_start_as_the_shared_network() -> None:
    torch.manual_seed(0)
    model = STAR(PLAIN, dim=3).eval()
    for layer in model.layers:
        inputs = torch.randn(5, layer.shared.in_features)
        for k in range(3):
            places = domain_result_rows(torch.full((5,), k), 3)
            torch.testing.assert_close(layer(inputs, places), layer.shared(inputs))


def test_a_batch_trains_the_domains_it_holds() -> None:
    torch.manual_seed(0)
    model = STAR(PLAIN, dim=3, hidden_units=(8,)).train()
    ids = some_ids(PLAIN, 100)
    ids[:, 1] = 2
    torch.autograd.backward(model(ids).square().sum())
    for layer in model.layers:
        assert layer.weight.grad is not None
        assert layer.weight.grad.abs().sum(dim=(1, 2)).bool().tolist() == [False, False, True]


def test_defaults_are_those_the_docstring_names() -> None:
    model = STAR(PLAIN)
    assert [tuple(layer.weight.shape) for layer in model.layers] == [
        (3, 256, 40),
        (3, 128, 256),
        (3, 64, 128),
        (3, 1, 64),
    ]
    assert [layer.out_features for layer in model.auxiliary.hidden] == [64]
