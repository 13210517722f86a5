"""DynInt-DA against eq. 4, row by row, and the gradient that its gates do not pass."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from models.dynint_da import DynIntDA, GatedInteraction
from models.fields import Field
from models.xdeepint import XDeepInt
from tests.models.layouts import LAYOUTS, PLAIN, randomized, some_ids


def logit_by_the_book(model: DynIntDA, embeddings: Tensor, *, block_gradient: bool = True) -> Tensor:
    """Eq. 4 and 2 for the embeddings [n_fields, dim] of one row, in the paper's orientation of X."""
    instance = embeddings.detach() if block_gradient else embeddings
    x0 = x = embeddings.reshape(len(embeddings) * model.sub_spaces, -1)  # [parts, depth]
    for layer in model.layers:
        assert isinstance(layer, GatedInteraction)
        hidden = layer.gate.hidden.weight @ instance.flatten() + layer.gate.hidden.bias
        outputs = layer.gate.output.weight @ hidden.clamp(min=0) + layer.gate.output.bias
        gates = torch.stack([2 / (1 + torch.exp(-output)) for output in outputs])
        x = torch.diag(gates) @ (x * (layer.mixing.weight @ x0)) + x
    return model.bias + (model.output.weight.T @ x.reshape(embeddings.shape)).sum()


@pytest.mark.parametrize("fields", LAYOUTS)
@pytest.mark.parametrize(("layers", "sub_spaces"), [(0, 1), (1, 1), (2, 2), (3, 4)])
def test_it_follows_the_equations(fields: tuple[Field, ...], layers: int, sub_spaces: int) -> None:
    shape: dict[str, Any] = {"dim": 4, "layers": layers, "sub_spaces": sub_spaces, "reduction_ratio": 3}
    model, ids = randomized(DynIntDA(fields, **shape).double()), some_ids(fields, 9)
    expected = [logit_by_the_book(model, row) for row in model.embedding(ids)]
    torch.testing.assert_close(model(ids), torch.stack(expected))


def test_the_gates_pass_no_gradient_to_the_embeddings() -> None:
    model, ids = randomized(DynIntDA(PLAIN, dim=4, sub_spaces=2).double()), some_ids(PLAIN, 9)
    table = model.embedding.table.weight
    (found,) = torch.autograd.grad(model(ids).sum(), table)
    rows = model.embedding(ids)
    (blocked,) = torch.autograd.grad(sum(logit_by_the_book(model, row) for row in rows), table)
    rows = model.embedding(ids)
    through = sum(logit_by_the_book(model, row, block_gradient=False) for row in rows)
    torch.testing.assert_close(found, blocked)
    assert not torch.allclose(found, torch.autograd.grad(through, table)[0])


def test_gates_start_near_one_and_stay_between_zero_and_two() -> None:
    torch.manual_seed(0)
    model, ids = DynIntDA(PLAIN), some_ids(PLAIN, 50)
    embeddings = model.embedding(ids)
    for layer in model.layers:
        assert isinstance(layer, GatedInteraction)
        x0 = torch.ones(50, 4, 16)
        gates = (layer(x0, x0, embeddings) - x0) / layer.mixing(x0)
        assert (gates - 1).abs().max() < 0.3
        wild = (layer(x0, x0, 1e3 * torch.randn(50, 4, 16)) - x0) / layer.mixing(x0)
        assert -1e-3 < wild.min() < 0.5 < 1.5 < wild.max() < 2 + 1e-3


def test_with_open_gates_it_is_xdeepint() -> None:
    model, static, ids = DynIntDA(PLAIN), XDeepInt(PLAIN), some_ids(PLAIN, 9)
    static.load_state_dict({name: model.state_dict()[name] for name in static.state_dict()})
    with torch.no_grad():
        for name, weights in model.named_parameters():
            if ".gate.output." in name:
                weights.zero_()
    torch.testing.assert_close(model(ids), static(ids))


def test_the_reduction_ratio_narrows_the_gating_network() -> None:
    layer = DynIntDA(PLAIN, dim=8, reduction_ratio=16).layers[0]
    assert isinstance(layer, GatedInteraction)
    assert layer.gate.hidden.weight.shape == (2, 32)
    assert layer.gate.output.weight.shape == (16, 2)


def test_a_reduction_that_widens_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'reduction_ratio' must be at least 1 \(got 0.5\)"):
        DynIntDA(PLAIN, reduction_ratio=0.5)
