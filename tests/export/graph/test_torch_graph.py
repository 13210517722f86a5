"""An INT8 graph in PyTorch: the integers of ONNX Runtime, gradients past its roundings, and the way back."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper

from export.errors import ExportError
from export.graph.onnx import export_onnx
from export.graph.quantize import quantize_int8
from export.graph.runtime import open_session, run_graph
from export.graph.torch_graph import Scaled, TorchGraph
from export.graph.unrounded import Unrounded
from models.dnn import DNN
from models.fields import Field

FIELDS = tuple(Field(f"f{number}", 40) for number in range(6))
IDS = np.random.default_rng(0).integers(0, 40, (900, 6)).astype(np.int32)


@pytest.fixture(scope="module")
def int8() -> tuple[bytes, Unrounded]:
    """A perceptron of three INT8 layers, some weights pruned, one field with larger embeddings."""
    torch.manual_seed(1)
    model = DNN(FIELDS, dim=10, hidden_units=(60, 50, 48))
    with torch.no_grad():
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
        model.embedding.table.weight[:40] *= 30.0
        model.embedding.table.weight[3:9] = 0.0
        model.mlp.hidden[1].weight[:, ::3] = 0.0
    unrounded = Unrounded()
    graph = quantize_int8(export_onnx(model.eval(), 6), IDS[:500], unrounded=unrounded)
    assert graph is not None
    return graph, unrounded


def steps_of(model: TorchGraph, rows: torch.Tensor, *, steps: int, rate: float) -> None:
    """Trains towards labels that the first field says."""
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    labels = (rows[:, 0] % 2).float()
    for _ in range(steps):
        optimizer.zero_grad()
        torch.nn.functional.binary_cross_entropy_with_logits(model.train()(rows), labels).backward()
        optimizer.step()
    model.eval()


def layer_by_layer(graph: bytes, model: TorchGraph) -> int:
    """Compares all codes that layers read, to the bit, and the logits; -> how many layers read any."""
    proto = onnx.load_model_from_string(graph)
    names = [node.output[0] for node in proto.graph.node if node.op_type == "QuantizeLinear"]
    proto.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    session = open_session(proto.SerializeToString())
    with torch.no_grad():
        found = model.values(torch.from_numpy(IDS))
    for name, codes in zip(names, session.run(names, {"ids": IDS}), strict=True):
        assert codes.dtype == np.uint8
        assert len(np.unique(codes)) > 20
        np.testing.assert_array_equal(found[name].numpy(), codes, err_msg=name)
    logits = found[proto.graph.output[0].name]
    assert isinstance(logits, torch.Tensor)
    np.testing.assert_allclose(logits.numpy(), run_graph(graph, IDS), rtol=2e-6, atol=2e-6)
    return len(names)


def test_integers_are_those_of_onnx_runtime_layer_by_layer(int8: tuple[bytes, Unrounded]) -> None:
    model = TorchGraph(*int8).eval()
    assert model.graph() == int8[0]
    assert layer_by_layer(int8[0], model) == 3


def test_they_still_are_after_training_and_what_was_pruned_stays_pruned(
    int8: tuple[bytes, Unrounded],
) -> None:
    model = TorchGraph(*int8)
    steps_of(model, torch.from_numpy(IDS), steps=30, rate=0.01)
    trained = model.graph()
    assert layer_by_layer(trained, model) == 3
    before, after = (
        {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in one.graph.initializer}
        for one in map(onnx.load_model_from_string, (int8[0], trained))
    )
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert changed == {*int8[1].tables, *int8[1].layers}  # a table, and weights and biases of three layers
    assert len(changed) == 7
    for name in changed:
        assert before[name].dtype == after[name].dtype
    (table,) = int8[1].tables
    assert (after[table][3:9] == 128).all()
    pruned = [name for name, numbers in int8[1].layers.items() if numbers.ndim == 2 and not numbers.all()]
    assert len(pruned) == 1
    was_pruned = int8[1].layers[pruned[0]] == 0
    assert was_pruned.mean() > 0.3
    assert not after[pruned[0]][was_pruned].any()
    assert not np.array_equal(run_graph(trained, IDS), run_graph(int8[0], IDS))


def test_a_gradient_passes_every_rounding(int8: tuple[bytes, Unrounded]) -> None:
    """A straight-through gradient is that of the same function without roundings, at the rounded numbers."""
    model = TorchGraph(*int8).train()
    rows = torch.from_numpy(IDS[:64])
    model(rows).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
    biases = [one for one in model.parameters() if one.ndim == 1]
    last, size = biases[-1], 4096.0  # in integers: far above a rounding, far below where a ReLU changes
    neuron = int(last.grad.abs().argmax())
    unit = 64 * 128
    with torch.no_grad():
        before = model(rows).sum()
        last[neuron] += size / unit
        moved = model(rows).sum() - before
    assert moved.item() == pytest.approx(last.grad[neuron].item() * size / unit, rel=0.3)


@given(st.integers(-(2**20), 2**20), st.sampled_from([0.25, 0.5, 1.0, 2.0**-9]), st.sampled_from([0, 128]))
def test_halves_round_to_even_and_ends_are_kept(sums: int, ratio: float, zero_point: int) -> None:
    """Requantization as `MlasRequantizeOutput` does it: clamped, rounded to the nearest even, shifted."""
    from export.graph.torch_graph import _quantized

    scale, step = torch.tensor(ratio), torch.tensor(1.0)
    value = Scaled(torch.tensor([float(sums)]), scale)
    found = _quantized(value, step, torch.tensor(zero_point, dtype=torch.uint8), is_joined=True)
    expected = np.clip(np.rint(sums * ratio), -zero_point, 255 - zero_point) + zero_point
    assert found.item() == expected


def test_an_operator_that_cannot_be_trained_is_named() -> None:
    node = helper.make_node("Erf", ["ids"], ["logits"])
    values = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n"]) for name in ("ids", "logits")
    ]
    graph = helper.make_model(helper.make_graph([node], "g", values[:1], values[1:])).SerializeToString()
    with pytest.raises(ExportError, match=r"'operator' must be one of .* to be trained .got 'Erf'"):
        TorchGraph(graph, Unrounded())
