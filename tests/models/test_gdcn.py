"""GDCN's gated cross layers against the equation, row by row, and its two structures."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from models.dcn_v2 import DCNV2
from models.fields import Field
from models.gdcn import GDCN, GatedCrossLayer, GatedCrossNetwork
from tests.models.layouts import LAYOUTS, PLAIN, randomized, some_ids
from tests.models.onnx_graphs import onnx_logits

STRUCTURES = ("stacked", "parallel")


def crossed_by_the_book(cross: GatedCrossNetwork, first: Tensor) -> Tensor:
    crossed = first
    for layer in cross.layers:
        assert isinstance(layer, GatedCrossLayer)
        entries = []
        for i, entry in enumerate(crossed):
            product = first[i] * (layer.cross.weight[i] @ crossed + layer.cross.bias[i])
            gate = 1 / (1 + torch.exp(-(layer.gate.weight[i] @ crossed)))
            entries.append(product * gate + entry)
        crossed = torch.stack(entries)
    return crossed


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("fields", LAYOUTS)
def test_gdcn_is_its_equations(fields: tuple[Field, ...], structure: str) -> None:
    model = randomized(GDCN(fields, dim=3, hidden_units=(5, 4), structure=structure)).double()
    ids = some_ids(fields, 9)
    for row, logit in zip(model.embedding(ids), model(ids), strict=True):
        first = torch.cat(list(row))
        crossed = crossed_by_the_book(model.cross, first)
        if structure == "stacked":
            expected = model.mlp(crossed.unsqueeze(0))[0]
        else:
            assert model.output is not None
            expected = model.output.weight[0] @ crossed + model.mlp(first.unsqueeze(0))[0]
        torch.testing.assert_close(logit, model.bias + expected)


def test_with_open_gates_it_is_dcn_v2() -> None:
    """A gate of V = 0 is one half for any row, so crosses of twice the size pass as DCN-V2's."""
    plain = randomized(DCNV2(PLAIN, dim=3, hidden_units=(5,), cross_layers=2))
    gated = GDCN(PLAIN, dim=3, hidden_units=(5,), cross_layers=2).eval()
    gated.load_state_dict(
        {name: values for name, values in plain.state_dict().items() if not name.startswith("cross.")},
        strict=False,
    )
    with torch.no_grad():
        for layer, other in zip(gated.cross.layers, plain.cross.layers, strict=True):
            layer.gate.weight.zero_()
            layer.cross.weight.copy_(2 * other.weight)
            layer.cross.bias.copy_(2 * other.bias)
    ids = some_ids(PLAIN, 30)
    torch.testing.assert_close(gated(ids), plain(ids))


@pytest.mark.parametrize("structure", STRUCTURES)
def test_every_parameter_of_both_structures_learns(structure: str) -> None:
    torch.manual_seed(0)
    model = GDCN(PLAIN, dim=3, hidden_units=(16,), structure=structure).eval()
    model(some_ids(PLAIN, 200)).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


@pytest.mark.parametrize("structure", STRUCTURES)
def test_its_graph_equals_it(structure: str) -> None:
    model, ids = randomized(GDCN(PLAIN, dim=3, structure=structure), scale=0.2), some_ids(PLAIN, 30)
    torch.testing.assert_close(onnx_logits(model, ids), model(ids), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"cross_layers": 0}, r"'cross_layers' must be at least 1 \(got 0\)"),
        ({"structure": "sideways"}, r"'structure' must be stacked or parallel \(got 'sideways'\)"),
    ],
)
def test_what_makes_no_cross_network_is_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GDCN(PLAIN, **wrong)
