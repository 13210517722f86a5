"""FinalMLP's gates, streams and fusion against the equations, row by row."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from models.fields import Field
from models.final_mlp import BilinearFusion, FeatureGate, FinalMLP
from models.layers import MLP
from tests.models.layouts import LAYOUTS, PLAIN, randomized, some_ids
from tests.models.onnx_graphs import onnx_logits


def gate_by_the_book(gate: FeatureGate, context: Tensor) -> Tensor:
    hidden = (gate.hidden.weight @ context + gate.hidden.bias).clamp(min=0)
    return 2 / (1 + torch.exp(-(gate.output.weight @ hidden + gate.output.bias)))


def stream_by_the_book(mlp: MLP, hidden: Tensor) -> Tensor:
    for layer in mlp.hidden:
        hidden = (layer.weight @ hidden + layer.bias).clamp(min=0)
    return hidden


def fused_by_the_book(fusion: BilinearFusion, first: Tensor, second: Tensor) -> Tensor:
    """Linear terms, and a term for each pair of neurons of the same head."""
    total = fusion.first.weight[0] @ first + fusion.second.weight[0] @ second
    share = len(first) // len(fusion.heads)
    for number, head in enumerate(fusion.heads):
        for i in range(share):
            for j in range(share):
                pair = first[number * share + i] * second[number * share + j]
                total = total + head.weight[j, i] * pair
    return total


@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize(
    "gates", [{}, {"first_gate": "hour", "second_gate": ["site", "hour"]}], ids=["constant", "of-fields"]
)
@pytest.mark.parametrize("fields", LAYOUTS)
def test_final_mlp_is_its_equations(fields: tuple[Field, ...], gates: dict[str, Any], heads: int) -> None:
    options: dict[str, Any] = {"hidden_units": (5,), "second_units": (), "stream_units": 4, "gate_units": 3}
    model = randomized(FinalMLP(fields, dim=3, heads=heads, **options, **gates)).double()
    ids, names = some_ids(fields, 9), [field.name for field in fields]
    for row, logit in zip(model.embedding(ids), model(ids), strict=True):
        contexts = [
            row[names.index("hour")],
            torch.cat([row[names.index(name)] for name in ("site", "hour")]),
        ]
        streams = []
        for gate, context, mlp in zip(model.gates, contexts, (model.mlp, model.second), strict=True):
            assert isinstance(gate, FeatureGate)
            weights = gate_by_the_book(gate, context if gate.constant is None else gate.constant[0])
            streams.append(stream_by_the_book(mlp, weights * torch.cat(list(row))))
        torch.testing.assert_close(logit, model.bias + fused_by_the_book(model.fusion, *streams))


@pytest.mark.parametrize("positions", [[], [0, 2]])
def test_new_gates_are_near_one(positions: list[int]) -> None:
    torch.manual_seed(0)
    gates = FeatureGate(4, 3, positions, 16)(torch.randn(5, 4, 3) * 0.01)
    assert gates.shape == (5 if positions else 1, 12)
    assert (gates - 1).abs().max() < 0.3


def test_every_parameter_of_gates_that_read_fields_learns() -> None:
    torch.manual_seed(0)
    model = FinalMLP(
        PLAIN, dim=3, hidden_units=(8,), stream_units=4, first_gate="site", second_gate=("ad",)
    ).eval()
    model(some_ids(PLAIN, 200)).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


@pytest.mark.parametrize("options", [{}, {"first_gate": "site", "second_gate": "ad", "heads": 4}])
def test_its_graph_equals_it(options: dict[str, Any]) -> None:
    model = randomized(FinalMLP(PLAIN, dim=3, hidden_units=(16,), stream_units=8, **options), scale=0.3)
    ids = some_ids(PLAIN, 30)
    torch.testing.assert_close(onnx_logits(model, ids), model(ids), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"heads": 0}, r"'heads' must be at least 1 \(got 0\)"),
        ({"heads": 3}, r"'heads' must divide 'stream_units', here 400 \(got 3\)"),
        (
            {"second_units": (0,)},
            r"'second_units' must be one number a layer, each at least 1 \(got \(0,\)\)",
        ),
        ({"stream_units": 0}, r"'stream_units' must be at least 1 \(got 0\)"),
        ({"gate_units": 0}, r"'gate_units' must be at least 1 \(got 0\)"),
        ({"first_gate": "size"}, r"'first_gate' must be one of the fields site, .* \(got 'size'\)"),
        ({"second_gate": ["ad", "size"]}, r"'second_gate' must be one of the fields site, .* \(got 'size'\)"),
    ],
)
def test_what_makes_no_streams_is_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FinalMLP(PLAIN, **wrong)
