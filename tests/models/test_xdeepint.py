"""xDeepInt against eq. 2 and 3, row by row, and what they imply: degree, and what sub-spaces cross."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from models.fields import Field
from models.xdeepint import XDeepInt
from tests.models.layouts import LAYOUTS, PLAIN, randomized, some_ids
from tests.models.onnx_graphs import onnx_logits


def logit_by_the_book(model: XDeepInt, embeddings: Tensor) -> Tensor:
    """Eq. 3, an inner product at a time, and eq. 2, for the embeddings [n_fields, dim] of one row."""
    x0 = [part for vector in embeddings for part in vector.chunk(model.sub_spaces)]
    x = x0
    for layer in model.layers:
        weights: Any = layer.mixing.weight
        mixed = [sum(weights[j, k] * x0[k] for k in range(len(x0))) for j in range(len(x0))]
        x = [x[j] * mixed[j] + x[j] for j in range(len(x0))]
    of_fields = [part.sum() for part in torch.cat(x).reshape(embeddings.shape)]
    weighted = [weight * field for weight, field in zip(model.output.weight[:, 0], of_fields, strict=True)]
    return model.bias + torch.stack(weighted).sum()


@pytest.mark.parametrize("fields", LAYOUTS)
@pytest.mark.parametrize(("layers", "sub_spaces"), [(0, 1), (1, 1), (3, 1), (2, 2), (2, 4)])
def test_it_follows_the_equations(fields: tuple[Field, ...], layers: int, sub_spaces: int) -> None:
    model = randomized(XDeepInt(fields, dim=4, layers=layers, sub_spaces=sub_spaces).double())
    ids = some_ids(fields, 9)
    expected = [logit_by_the_book(model, row) for row in model.embedding(ids)]
    torch.testing.assert_close(model(ids), torch.stack(expected))


@pytest.mark.parametrize("layers", [0, 1, 2, 3])
def test_it_is_a_polynomial_of_degree_layers_plus_one(layers: int) -> None:
    model = randomized(XDeepInt(PLAIN, dim=4, layers=layers, sub_spaces=2).double())
    ids, table = some_ids(PLAIN, 20), model.embedding.table.weight.detach().clone()
    logits = []
    for scale in range(layers + 3):
        with torch.no_grad():
            model.embedding.table.weight.copy_(table * scale)
            logits.append(model(ids))
    differences = torch.stack(logits).diff(n=layers + 1, dim=0)
    assert differences.abs().min() > 1e-6
    torch.testing.assert_close(differences.diff(dim=0), torch.zeros_like(differences[:1]), atol=1e-8, rtol=0)


@pytest.mark.parametrize(("sub_spaces", "is_vector_wise"), [(1, True), (2, False), (4, False)])
def test_one_sub_space_interacts_vectors_and_more_interact_numbers(
    sub_spaces: int, is_vector_wise: bool
) -> None:
    """Vector-wise interactions do not depend on the order of an embedding's elements."""
    model = randomized(XDeepInt(PLAIN, dim=4, sub_spaces=sub_spaces).double())
    ids = some_ids(PLAIN, 20)
    before = model(ids)
    with torch.no_grad():
        model.embedding.table.weight.copy_(model.embedding.table.weight[:, [2, 0, 3, 1]])
    assert torch.allclose(model(ids), before) is is_vector_wise


def test_the_graph_of_one_sub_space_gives_the_same_logits() -> None:
    model, ids = randomized(XDeepInt(PLAIN, sub_spaces=1), scale=0.2), some_ids(PLAIN, 33)
    torch.testing.assert_close(onnx_logits(model, ids), model(ids), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"sub_spaces": 3}, r"'sub_spaces' must be a divisor of dim 16 \(got 3\)"),
        ({"sub_spaces": 0}, r"'sub_spaces' must be a divisor of dim 16 \(got 0\)"),
        ({"layers": -1}, r"'layers' must be at least 0 \(got -1\)"),
    ],
)
def test_what_makes_no_polynomial_is_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        XDeepInt(PLAIN, **wrong)
