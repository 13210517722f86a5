"""DynInt-DGP against eq. 5, 7 and 11, row by row, the gradient it blocks and its memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from models.dynint_dgp import DynIntDGP, GeneratedInteraction
from models.fields import Field
from tests.models.layouts import LAYOUTS, PLAIN, randomized, some_ids
from tests.models.onnx_graphs import onnx_logits

SHAPES: list[dict[str, Any]] = [
    {"layers": 0, "sub_spaces": 1},
    {"layers": 1, "sub_spaces": 1, "kernel_size": 1},
    {"layers": 2, "sub_spaces": 2, "kernel_size": 3},
    {"layers": 2, "sub_spaces": 4, "kernel_size": 5, "kernel": "diagonal"},
]


def layers_of(model: DynIntDGP) -> list[GeneratedInteraction]:
    return [layer for layer in model.layers if isinstance(layer, GeneratedInteraction)]


def generated_matrix(layer: GeneratedInteraction, instance: Tensor) -> Tensor:
    """W^(i) of eq. 7, [parts, parts], for X_0 of one row as [n_fields, dim]."""
    network, rank = layer.generator, layer.rank
    hidden = (network.hidden.weight @ instance.flatten() + network.hidden.bias).clamp(min=0)
    outputs = network.output.weight @ hidden + network.output.bias
    sigma = torch.diag(outputs) if layer.kernel == "diagonal" else outputs.reshape(rank, rank).T
    return layer.left @ sigma @ layer.right.T


def logit_by_the_book(model: DynIntDGP, embeddings: Tensor, *, block_gradient: bool = True) -> Tensor:
    """Eq. 5 with the explicit W^(i), and eq. 2, for the embeddings [n_fields, dim] of one row."""
    instance = embeddings.detach() if block_gradient else embeddings
    x0 = x = embeddings.reshape(len(embeddings) * model.sub_spaces, -1)  # [parts, depth]
    for layer in layers_of(model):
        x = x * (generated_matrix(layer, instance) @ x0) + x
    return model.bias + (model.output.weight.T @ x.reshape(embeddings.shape)).sum()


@pytest.mark.parametrize("fields", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_it_follows_the_equations(fields: tuple[Field, ...], shape: dict[str, Any]) -> None:
    model = randomized(DynIntDGP(fields, dim=4, reduction_ratio=2, **shape).double())
    ids = some_ids(fields, 9)
    expected = [logit_by_the_book(model, row) for row in model.embedding(ids)]
    torch.testing.assert_close(model(ids), torch.stack(expected))


@pytest.mark.parametrize("kernel", ["full", "diagonal"])
def test_the_generators_pass_no_gradient_to_the_embeddings(kernel: Any) -> None:
    model = randomized(DynIntDGP(PLAIN, dim=4, sub_spaces=2, kernel_size=3, kernel=kernel).double())
    ids, table = some_ids(PLAIN, 9), model.embedding.table.weight
    (found,) = torch.autograd.grad(model(ids).sum(), table)
    rows = model.embedding(ids)
    (blocked,) = torch.autograd.grad(sum(logit_by_the_book(model, row) for row in rows), table)
    rows = model.embedding(ids)
    through = sum(logit_by_the_book(model, row, block_gradient=False) for row in rows)
    torch.testing.assert_close(found, blocked)
    assert not torch.allclose(found, torch.autograd.grad(through, table)[0])


def test_the_penalty_is_that_of_equation_11_and_for_training_only() -> None:
    model = randomized(DynIntDGP(PLAIN, kernel_size=5, orthogonal_rate=0.3).double())
    ids = some_ids(PLAIN, 9)
    expected = torch.zeros((), dtype=torch.float64)
    for layer in layers_of(model):
        for matrix in (layer.left, layer.right):
            for p in range(5):
                for q in range(p):
                    u_p, u_q = matrix[:, p], matrix[:, q]
                    expected = expected + 0.3 * (u_p @ u_q).abs() / (u_p.norm() * u_q.norm())
    model.train()(ids)
    assert model.penalty is not None
    torch.testing.assert_close(model.penalty, expected)
    model.penalty.backward()
    learning = {name for name, weights in model.named_parameters() if weights.grad is not None}
    assert learning == {f"layers.{layer}.{side}" for layer in range(3) for side in ("left", "right")}
    model.eval()(ids)
    assert model.penalty is None


def test_a_fresh_model_is_static_and_its_columns_are_orthogonal() -> None:
    """W^(i) starts near U V^T, whose singular values are 1."""
    torch.manual_seed(0)
    model, ids = DynIntDGP(PLAIN, kernel_size=7), some_ids(PLAIN, 5)
    model.train()(ids)
    assert model.penalty is not None
    assert model.penalty < 1e-6
    for row in model.embedding(ids):
        for layer in layers_of(model):
            values = torch.linalg.svdvals(generated_matrix(layer, row))
            torch.testing.assert_close(values[:7], torch.ones(7), atol=0.02, rtol=0)
            assert values[7:].max() < 1e-5


def test_the_rank_is_no_larger_than_the_matrix() -> None:
    small, large = DynIntDGP(PLAIN, sub_spaces=2), DynIntDGP(PLAIN, sub_spaces=16)
    assert [layer.rank for layer in layers_of(small)] == [8, 8, 8]
    assert [layer.rank for layer in layers_of(large)] == [16, 16, 16]


class LargestTensor(TorchDispatchMode):
    """Records the size of the largest tensor that any operation returns, forward or backward."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        results = func(*args, **(kwargs or {}))
        sizes = [leaf.numel() for leaf in tree_leaves(results) if isinstance(leaf, Tensor)]
        self.numbers = max([self.numbers, *sizes])
        return results


def test_no_tensor_of_all_rows_matrices_arises() -> None:
    """12 fields in 4 sub-spaces are 48 parts: of 64 rows W has 147,456 numbers, Sigma 1,024."""
    fields = tuple(Field(f"field_{number}", 9) for number in range(12))
    model, ids = DynIntDGP(fields, dim=8, kernel_size=4), some_ids(fields, 64)
    with LargestTensor() as written_out:
        matrices = torch.stack([generated_matrix(layers_of(model)[0], row) for row in model.embedding(ids)])
        matrices.sum().backward()
    assert written_out.numbers == 64 * 48 * 48
    with LargestTensor() as found:
        model.train()(ids).sum().backward()
    assert found.numbers == 64 * 12 * 8  # a feature map
    assert layers_of(model)[0].kernels(model.embedding(ids)).shape == (64, 4, 4)


def test_the_graph_of_a_diagonal_kernel_gives_the_same_logits() -> None:
    model, ids = randomized(DynIntDGP(PLAIN, kernel="diagonal"), scale=0.2), some_ids(PLAIN, 33)
    torch.testing.assert_close(onnx_logits(model, ids), model(ids), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"kernel_size": 0}, r"'kernel_size' must be at least 1 \(got 0\)"),
        ({"kernel": "round"}, r"'kernel' must be full or diagonal \(got 'round'\)"),
        ({"reduction_ratio": 0}, r"'reduction_ratio' must be at least 1 \(got 0\)"),
        ({"orthogonal_rate": -1.0}, r"'orthogonal_rate' must be at least 0 \(got -1.0\)"),
        ({"orthogonal_rate": float("nan")}, r"'orthogonal_rate' must be at least 0 \(got nan\)"),
    ],
)
def test_what_generates_no_matrix_is_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DynIntDGP(PLAIN, **wrong)
