"""AFN's logarithmic neurons and both perceptrons against the equations, and its folded form."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from models.afn import AFN, LogarithmicNeurons
from models.embedding import EMBEDDING_STD
from models.fields import Field
from models.layers import MLP, BatchNorm
from tests.models.layouts import LAYOUTS, PLAIN, SEQUENCES, randomized, some_ids, with_statistics
from tests.models.onnx_graphs import onnx_logits


def normalized_by_the_book(number: Tensor, norm: BatchNorm, feature: int) -> Tensor:
    deviation = torch.sqrt(norm.running_var[feature] + 1e-5)
    return (number - norm.running_mean[feature]) / deviation * norm.weight[feature] + norm.bias[feature]


def neurons_by_the_book(layer: LogarithmicNeurons, row: Tensor) -> Tensor:
    """Of one row [n_fields, dim]: all neurons of the first element, then of the next."""
    found = []
    for element in range(row.shape[1]):
        for neuron, powers in enumerate(layer.powers.weight):
            total = torch.zeros((), dtype=row.dtype)
            for field, number in enumerate(row[:, element]):
                logarithm = torch.log(number.abs().clamp(min=1e-5))
                total = total + powers[field] * normalized_by_the_book(logarithm, layer.normalize_logs, field)
            found.append(normalized_by_the_book(torch.exp(total), layer.normalize, neuron))
    return torch.stack(found)


def perceptron_by_the_book(mlp: MLP, hidden: Tensor) -> Tensor:
    for layer in mlp.hidden:
        hidden = (layer.weight @ hidden + layer.bias).clamp(min=0)
    return mlp.output.weight[0] @ hidden + mlp.output.bias[0]


@pytest.mark.parametrize("ensemble", [True, False])
@pytest.mark.parametrize("fields", LAYOUTS)
def test_afn_is_its_equations(fields: tuple[Field, ...], ensemble: bool) -> None:
    model = with_statistics(
        AFN(fields, dim=3, hidden_units=(5, 4), second_units=(6,), neurons=4, ensemble=ensemble)
    ).double()
    ids = some_ids(fields, 9)
    for number, (row, logit) in enumerate(zip(model.embedding(ids), model(ids), strict=True)):
        expected = model.bias + perceptron_by_the_book(model.mlp, neurons_by_the_book(model.logarithmic, row))
        if ensemble:
            assert model.second_embedding is not None
            assert model.second is not None
            others = model.second_embedding(ids)[number]
            expected = expected + perceptron_by_the_book(model.second, torch.cat(list(others)))
        torch.testing.assert_close(logit, expected)


def test_a_neuron_is_a_product_of_powers() -> None:
    layer = LogarithmicNeurons(3, 2).eval()
    for norm in (layer.normalize_logs, layer.normalize):
        norm.running_mean.zero_()
        norm.running_var.fill_(1.0 - norm.eps)
    with torch.no_grad():
        layer.powers.weight.copy_(torch.tensor([[1.0, 2.0, 0.0], [0.0, -1.0, 0.5]]))
    embeddings = torch.tensor([[[-2.0], [0.5], [9.0]]])
    torch.testing.assert_close(layer(embeddings), torch.tensor([[2.0 * 0.5**2, 9.0**0.5 / 0.5]]))


def test_statistics_start_as_those_of_new_embeddings() -> None:
    norm, random = LogarithmicNeurons(3, 2).normalize_logs, torch.Generator().manual_seed(0)
    logs = (torch.randn(200_000, 3, generator=random) * EMBEDDING_STD).abs().log()
    torch.testing.assert_close(logs.mean(dim=0), norm.running_mean, rtol=0.01, atol=0)
    torch.testing.assert_close(logs.var(dim=0), norm.running_var, rtol=0.03, atol=0)


@pytest.mark.parametrize("hidden_units", [(), (5,), (5, 4)])
@pytest.mark.parametrize("storage", ["full", "hashed", "qr"])
@pytest.mark.parametrize("fields", LAYOUTS)
def test_the_folded_form_equals_it(fields: tuple[Field, ...], storage: Any, hidden_units: Any) -> None:
    """Also with two fields of one table, and with embeddings that are zero."""
    stored = [replace(field, storage=storage, collisions=2) for field in fields]
    twin = replace(stored[-1], name="twin", width=1, same_values_as=stored[-1].name)
    model = AFN([*stored, twin], dim=3, hidden_units=hidden_units, neurons=4)
    model = with_statistics(model).double()
    model.embedding.table.weight.data[2:4] = 0.0
    before = {name: values.clone() for name, values in model.state_dict().items()}
    folded, ids = model.folded(), some_ids([*stored, twin], 50)
    assert not any("normalize" in name for name in folded.state_dict())
    assert folded.logarithmic.reads_logs is (fields is PLAIN and storage != "qr")
    torch.testing.assert_close(folded(ids), model(ids))
    assert all(torch.equal(values, before[name]) for name, values in model.state_dict().items())


def test_embeddings_of_products_start_positive() -> None:
    model = AFN(PLAIN)
    assert model.second_embedding is not None
    assert (model.embedding.table.weight > 0).all()
    assert not (model.second_embedding.table.weight > 0).all()


def test_looked_up_logarithms_lie_around_zero() -> None:
    folded = randomized(AFN(PLAIN, dim=3)).folded()
    starts = [*folded.embedding.offsets.tolist(), len(folded.embedding.table.weight)]
    for first, end in itertools.pairwise(starts):
        rows = folded.embedding.table.weight[first:end]
        torch.testing.assert_close(rows.max(), -rows.min())


@pytest.mark.parametrize("fields", [PLAIN, SEQUENCES])
def test_its_graph_equals_it(fields: tuple[Field, ...]) -> None:
    model, ids = (
        randomized(AFN(fields, dim=3, hidden_units=(16,), neurons=6), scale=0.3),
        some_ids(fields, 30),
    )
    torch.testing.assert_close(onnx_logits(model, ids), model(ids), rtol=1e-4, atol=1e-4)


def test_layers_without_neurons_are_refused() -> None:
    with pytest.raises(ValueError, match=r"'neurons' must be at least 1 \(got 0\)"):
        AFN(PLAIN, neurons=0)
    with pytest.raises(ValueError, match=r"'second_units' must be one number a layer, each at least 1"):
        AFN(PLAIN, second_units=(0,))


def test_the_least_logarithm_is_that_of_a_small_number() -> None:
    folded = AFN((Field("only", 2),), dim=1)
    with torch.no_grad():
        folded.embedding.table.weight.copy_(torch.tensor([[0.0], [1.0]]))
    folded = folded.folded()
    torch.testing.assert_close(folded.embedding.table.weight[1, 0], torch.tensor(-math.log(1e-5) / 2))
