"""Every version of the adaptive layer against a loop that builds each row's matrix as the paper writes it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models.adaptive_layers import VERSIONS, Adaptation, AdaptiveLinear, Version
from models.layers import MLP

ROWS, N, M, K, P, D = 5, 6, 4, 3, 37, 7


def layer_of(version: Version, seed: int = 0, **how: Any) -> AdaptiveLinear:
    """A layer whose generated matrices differ much from row to row."""
    torch.manual_seed(seed)
    layer = AdaptiveLinear(M, N, Adaptation(version, K, P, condition_size=D, **how))
    with torch.no_grad():
        for network in layer.generator.networks:
            assert isinstance(network, nn.Sequential)
            last = network[-1]
            assert isinstance(last, nn.Linear)
            last.weight.normal_()
    return layer


def some(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def matrices_of(layer: AdaptiveLinear, entries: Tensor) -> Tensor:
    """W_i [N, M] of one row from the entries that its condition generates, by the row of Table 3."""
    parts: dict[str, Tensor] = {name: value for name, value in layer.named_parameters() if "." not in name}
    match layer.how.version:
        case "v1":
            return entries.reshape(N, M)
        case "v2" | "v3":
            tall, square, wide = entries.split([N * K, K * K, K * M])
            return tall.reshape(N, K) @ square.reshape(K, K) @ wide.reshape(K, M)
        case "v4":
            return parts["U"] @ entries.reshape(K, K) @ parts["V"]
        case _:
            tall, wide = parts["U_l"] @ parts["U_r"] / P, parts["V_l"] @ parts["V_r"] / P
            return tall @ entries.reshape(K, K) @ wide


def by_rows(layer: AdaptiveLinear, inputs: Tensor, entries: Tensor) -> Tensor:
    rows = []
    for row, own in zip(inputs, entries, strict=True):
        matrix = matrices_of(layer, own)
        rows.append(torch.stack([torch.dot(weights, row) for weights in matrix]) + layer.bias)
    return torch.stack(rows)


def assert_same_sums(found: Tensor, expected: Tensor) -> None:
    """Equal but for rounding: sums of another order, whose terms may be far larger than the sum."""
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)


def generated(network: nn.Module, condition: Tensor) -> Tensor:
    """A perceptron's output, layer by layer: affine maps with ReLU between."""
    assert isinstance(network, nn.Sequential)
    linear = [layer for layer in network if isinstance(layer, nn.Linear)]
    for layer in linear[:-1]:
        condition = (condition @ layer.weight.T + layer.bias).clamp(min=0)
    return condition @ linear[-1].weight.T + linear[-1].bias


@pytest.mark.parametrize("units", [(), (9,), (9, 8)])
@pytest.mark.parametrize("version", VERSIONS)
def test_a_layer_is_a_matrix_of_its_own_for_each_row(version: Version, units: tuple[int, ...]) -> None:
    layer = layer_of(version, generator_units=units)
    inputs, condition = some(ROWS, M), some(ROWS, D, seed=2)
    entries = generated(layer.generator.networks[0], condition)
    assert_same_sums(layer(inputs, condition), by_rows(layer, inputs, entries))
    assert len(matrices_of(layer, entries[0]).unique()) == N * M
    assert (matrices_of(layer, entries[0]) - matrices_of(layer, entries[1])).abs().max() > 0.1


@pytest.mark.parametrize("version", VERSIONS)
def test_self_wise_the_condition_is_the_layers_input(version: Version) -> None:
    torch.manual_seed(0)
    layer = AdaptiveLinear(M, N, Adaptation(version, K, P))
    inputs = some(ROWS, M)
    entries = generated(layer.generator.networks[0], inputs)
    torch.testing.assert_close(layer(inputs), by_rows(layer, inputs, entries))


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("aggregation", ["mean", "attention"])
def test_output_aggregation_is_of_the_matrices_that_each_condition_generates(
    aggregation: str, version: Version
) -> None:
    layer = layer_of(version, conditions=2, aggregation=aggregation)
    inputs, conditions = some(ROWS, M), some(ROWS, 2, D, seed=2)
    each = torch.stack(
        [generated(network, conditions[:, j]) for j, network in enumerate(layer.generator.networks)], dim=1
    )
    if aggregation == "mean":
        entries = (each[:, 0] + each[:, 1]) / 2
    else:
        mixture = layer.generator.mixture
        assert mixture is not None
        with torch.no_grad():
            mixture.queries.copy_(some(*mixture.queries.shape, seed=3))
            mixture.biases.copy_(torch.tensor([0.3, -0.2]))
        scores = [(each[:, j] * mixture.queries[j]).sum(dim=1) + mixture.biases[j] for j in (0, 1)]
        weights = torch.stack(scores, dim=1).exp()
        weights = weights / weights.sum(dim=1, keepdim=True)
        entries = weights[:, :1] * each[:, 0] + weights[:, 1:] * each[:, 1]
    torch.testing.assert_close(
        layer(inputs, conditions), by_rows(layer, inputs, entries), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("version", VERSIONS)
def test_output_aggregation_by_concatenation_gives_each_condition_its_share(version: Version) -> None:
    layer = layer_of(version, conditions=2, aggregation="concatenation")
    inputs, conditions = some(ROWS, M), some(ROWS, 2, D, seed=2)
    first, second = (
        generated(network, conditions[:, j]) for j, network in enumerate(layer.generator.networks)
    )
    assert abs(first.shape[1] - second.shape[1]) <= 1
    entries = torch.cat([first, second], dim=1)
    assert_same_sums(layer(inputs, conditions), by_rows(layer, inputs, entries))


def test_decomposed_feed_forwarding_changes_nothing() -> None:
    built, decomposed = layer_of("v2"), layer_of("v3", seed=9)
    decomposed.load_state_dict(built.state_dict())
    inputs, condition = some(ROWS, M), some(ROWS, D, seed=2)
    torch.testing.assert_close(built(inputs, condition), decomposed(inputs, condition))


@pytest.mark.parametrize("how", [{}, {"conditions": 2}, {"generator_units": (5,)}])
def test_v5_folds_into_the_v4_of_its_products(how: dict[str, Any]) -> None:
    layer = layer_of("v5", **how).eval()
    folded = layer.folded()
    assert folded.how.version == "v4"
    assert not folded.training
    torch.testing.assert_close(folded.U, layer.U_l @ layer.U_r / P)
    torch.testing.assert_close(folded.V, layer.V_l @ layer.V_r / P)
    assert not any(P in parameter.shape for parameter in folded.parameters())
    assert any(P in parameter.shape for parameter in layer.parameters())
    inputs = some(ROWS, M)
    condition = some(ROWS, 2, D, seed=2) if how.get("conditions") else some(ROWS, D, seed=2)
    torch.testing.assert_close(folded(inputs, condition), layer(inputs, condition))
    with torch.no_grad():
        layer.U_l.zero_()
    assert folded(inputs, condition).std() > 0.1


@pytest.mark.parametrize("version", ["v1", "v2", "v3", "v4"])
def test_other_versions_have_nothing_to_fold(version: Version) -> None:
    layer = layer_of(version)
    assert layer.folded() is layer


@pytest.mark.parametrize("version", VERSIONS)
def test_a_new_layer_has_the_output_scale_of_a_plain_one(version: Version) -> None:
    torch.manual_seed(0)
    inputs = torch.randn(300, 64).relu()
    plain = torch.cat([MLP(64, (200,), 0.0, outputs=None).hidden[0](inputs) for _ in range(5)])
    adaptive = torch.cat([AdaptiveLinear(64, 200, Adaptation(version))(inputs) for _ in range(5)])
    assert 0.6 < (adaptive.std() / plain.std()).item() < 1.7


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"version": "v6"}, "'version' must be v1, v2, v3, v4 or v5"),
        ({"rank": 0}, "'adaptive_rank' must be at least 1"),
        ({"rank": 2.5}, "'adaptive_rank' must be a whole number"),
        ({"inner_width": 0}, "'inner_width' must be at least 1"),
        (
            {"conditions": 2, "aggregation": "sum"},
            "'aggregation' must be concatenation, mean or attention",
        ),
    ],
)
def test_a_layer_that_cannot_be_is_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AdaptiveLinear(M, N, Adaptation(**wrong))
