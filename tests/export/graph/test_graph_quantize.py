"""INT8 graphs: close to the float graphs, smaller, and valid for unusual weights."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from export.errors import ExportError
from export.graph.onnx import export_onnx
from export.graph.quantize import quantize_int8
from export.graph.runtime import run_graph
from export.judge.parity import check_batch_invariance
from models.dcn_v2 import DCNV2
from models.deep_fwfm import DeepFwFM
from models.fields import Field
from tests.export.small_models import make_ids, make_model

FIELDS = tuple(Field(f"f{number}", 40) for number in range(6))
IDS = np.random.default_rng(0).integers(0, 40, (900, 6)).astype(np.int32)


@pytest.fixture
def model() -> DeepFwFM:
    return a_model()


@pytest.fixture(scope="module")
def graph() -> bytes:
    """The graph of the model as it is, for tests that change no weight."""
    return export_onnx(a_model(), 6)


def a_model() -> DeepFwFM:
    torch.manual_seed(1)
    model = DeepFwFM(FIELDS, dim=10, hidden_units=(60, 50))  # wide enough for every layer to be INT8
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


def test_int8_is_near_float(exported):
    float32, int8 = run_graph(exported.float32, exported.ids), run_graph(exported.int8, exported.ids)
    assert np.sqrt(np.mean((int8 - float32) ** 2)) < 0.04 * float32.std()
    assert np.corrcoef(float32, int8)[0, 1] > 0.999


def test_int8_takes_a_quarter_of_a_large_table(model):
    fields = tuple(Field(f"f{number}", 20_000) for number in range(6))
    graph = export_onnx(DeepFwFM(fields, dim=10, hidden_units=(60, 50)), 6)
    assert len(quantize_int8(graph, IDS)) < 0.26 * len(graph)


def test_same_graph_and_rows_give_same_bytes(exported):
    assert quantize_int8(exported.float32, exported.ids[:300]) == exported.int8


def test_whole_numbers_are_in_their_ranges(exported):
    weights = _weights(exported.int8)
    assert weights["table"].dtype == np.uint8
    assert weights["table"].min() >= 1
    int8 = [values for values in weights.values() if values.dtype == np.int8 and values.ndim == 2]
    # Two products of a uint8 and a 7-bit weight fit 16 bits, so a CPU without VNNI does not saturate.
    assert all(np.abs(values.astype(int)).max() * 255 * 2 < 2**15 for values in int8)
    assert len(int8) == (3 if hasattr(exported.model, "mlp") else 0)


def test_each_field_has_its_own_scale(model):
    with torch.no_grad():
        model.embedding.table.weight[:40] *= 1000.0  # much larger than the other fields
        model.mlp.hidden[0].weight[:, :10] /= 1000.0
        model.linear.weight[0] /= 1000.0
        model.pairs.weight[:5] /= 1000.0
    graph = export_onnx(model, 6)
    float32 = run_graph(graph, IDS)
    assert np.abs(run_graph(quantize_int8(graph, IDS), IDS) - float32).max() < 0.1 * float32.std()


@pytest.mark.parametrize("scale", [0.01, 1e-20])
def test_a_field_of_zeros_does_not_reduce_the_precision_of_others(model, scale):
    """Pruning zeroes whole fields; other embeddings are small, as after training."""
    with torch.no_grad():
        model.embedding.table.weight.mul_(scale)
        model.embedding.table.weight[:40] = 0.0
        for part in (model.mlp.hidden[0], model.linear):
            part.weight.div_(scale)
        model.pairs.weight.zero_()
    graph = export_onnx(model, 6)
    float32, int8 = run_graph(graph, IDS), run_graph(quantize_int8(graph, IDS), IDS)
    assert np.sqrt(np.mean((int8 - float32) ** 2)) <= 0.05 * float32.std()


def test_a_perceptron_without_hidden_layers(model):
    bare = DeepFwFM(FIELDS, dim=10, hidden_units=())
    bare.load_state_dict({**bare.state_dict(), "embedding.table.weight": model.embedding.table.weight})
    graph = export_onnx(bare.eval(), 6)
    float32, int8 = run_graph(graph, IDS), run_graph(quantize_int8(graph, IDS), IDS)
    assert np.sqrt(np.mean((int8 - float32) ** 2)) < 0.04 * float32.std()


@pytest.mark.parametrize("part", ["table", "first field", "biases", "a neuron", "a layer", "pairs"])
def test_weights_of_zero_are_no_trouble(model, part):
    with torch.no_grad():
        if part == "table":
            model.embedding.table.weight.zero_()
        elif part == "first field":
            model.embedding.table.weight[:40] = 0.0
        elif part == "biases":  # the exporter omits them
            for layer in model.mlp.hidden:
                layer.bias.zero_()
        elif part == "a neuron":  # with a bias that its scale must still represent
            model.mlp.hidden[0].weight[3] = 0.0
            model.mlp.hidden[0].bias[3] = 2.0
        elif part == "a layer":  # constant zero
            model.mlp.hidden[1].weight.zero_()
            model.mlp.hidden[1].bias.fill_(-1.0)
        else:
            model.pairs.weight.zero_()
    graph = export_onnx(model, 6)
    float32, int8 = run_graph(graph, IDS), run_graph(quantize_int8(graph, IDS), IDS)
    assert np.isfinite(int8).all()
    assert np.sqrt(np.mean((int8 - float32) ** 2)) < 0.06


def test_a_layer_that_reads_another_one_directly():
    """The two matrices of a cross layer of low rank, with nothing between."""
    torch.manual_seed(1)
    model = DCNV2(FIELDS, hidden_units=(), cross_layers=1, rank=50).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    graph = export_onnx(model, 6)
    int8 = quantize_int8(graph, IDS)
    assert sum(node.op_type == "QuantizeLinear" for node in onnx.load_from_string(int8).graph.node) == 2
    float32 = run_graph(graph, IDS)
    assert (run_graph(int8, IDS) - float32).std() < 0.05 * float32.std()


def test_model_without_pairs(model):
    bare = DeepFwFM(FIELDS, dim=10, hidden_units=(60,), pairs=[]).eval()
    graph = export_onnx(bare, 6)
    np.testing.assert_allclose(run_graph(graph, IDS), bare(torch.from_numpy(IDS)).detach().numpy(), atol=1e-5)
    assert np.abs(run_graph(quantize_int8(graph, IDS), IDS) - run_graph(graph, IDS)).max() < 0.05


@pytest.mark.parametrize("name", ["deep_fwfm", "fwfm"])
def test_many_fields(name):
    """From 40 fields on the matrix of field pairs is an INT8 layer too: new nodes stand beside old ones."""
    fields = tuple(Field(f"f{number}", 6) for number in range(48))
    model = make_model(name, fields, **({"hidden_units": (40,)} if name == "deep_fwfm" else {}))
    ids = make_ids(fields, 400)
    graph = export_onnx(model, len(fields))
    int8 = quantize_int8(graph, ids[:300])
    names = [node.name for node in onnx.load_model_from_string(int8).graph.node]
    assert len(names) == len(set(names))
    assert np.corrcoef(run_graph(int8, ids), run_graph(graph, ids))[0, 1] > 0.99


WIDE_FIELDS = (
    Field("domain", 4),
    Field("history", 3000, width=3, same_values_as="ad", storage="qr", collisions=4),
    Field("site", 3000, storage="hashed", collisions=3),
    Field("tags", 500, width=2, pooling="sum"),
    Field("ad", 3000, role="candidate", storage="qr", collisions=4),
)


@pytest.mark.parametrize(
    ("name", "hyperparameters", "float_weights"),
    [
        # A tower's last layer and the gates are small; the experts' layers are not.
        ("mmoe", {"hidden_units": (96, 64), "experts": 3, "tower_units": (16,)}, 4 * 16 * 64),
        ("fibinet", {"hidden_units": (64,), "dim": 48}, 0),
        ("fibinet", {"hidden_units": (64,), "dim": 48, "bilinear": "each"}, 0),
        ("fibinet", {"hidden_units": (64,), "dim": 48, "bilinear": "all"}, 0),
    ],
)
def test_layers_of_groups_and_tables_of_all_kinds_are_int8(name, hyperparameters, float_weights):
    """Experts, bilinear matrices, and rows that several ids share."""
    model = make_model(name, WIDE_FIELDS, **hyperparameters)
    ids = make_ids(WIDE_FIELDS, 600)
    graph = export_onnx(model, ids.shape[1])
    int8 = quantize_int8(graph, ids[:300])
    float32_logits, int8_logits = run_graph(graph, ids), run_graph(int8, ids)
    assert np.sqrt(np.mean((int8_logits - float32_logits) ** 2)) < 0.04 * float32_logits.std()
    sizes = {name: values.size for name, values in _weights(int8).items() if values.dtype == np.float32}
    remainders = 1 + 4
    assert max(sizes.values()) <= max(float_weights, remainders * 48, 3000), sizes
    check_batch_invariance(int8, ids)


def test_rows_beyond_the_calibrated_range_stay_sane(graph):
    one_row = quantize_int8(graph, IDS[:1])
    assert np.corrcoef(run_graph(one_row, IDS), run_graph(graph, IDS))[0, 1] > 0.9


def test_no_rows_is_an_error(graph):
    with pytest.raises(ExportError, match="'calibration_ids' must hold at least one row"):
        quantize_int8(graph, IDS[:0])


def test_a_graph_without_tables_and_layers_has_no_int8_form():
    node = onnx.helper.make_node("Identity", ["ids"], ["logits"])
    value = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n"]) for name in ("ids", "logits")
    ]
    foreign = onnx.helper.make_model(onnx.helper.make_graph([node], "g", value[:1], value[1:]))
    assert quantize_int8(foreign.SerializeToString(), IDS) is None


def _weights(graph: bytes) -> dict[str, np.ndarray]:
    model = onnx.load_model_from_string(graph)
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
