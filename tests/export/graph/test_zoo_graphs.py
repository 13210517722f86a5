"""Every model of MODELS as graphs: what PyTorch says, the same in any batch, and near it in INT8."""

from __future__ import annotations

import copy
import functools
import inspect
from dataclasses import dataclass

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from export.graph.onnx import export_onnx
from export.graph.parity import AUC_TOLERANCE, check_against_torch, check_batch_invariance
from export.graph.quantize import quantize_int8
from export.graph.runtime import run_graph
from export.train.metrics import auc, sigmoid
from models import MODELS
from models.fields import Field

NUMBERS = (0.0, 0.0, -1.4, -0.6, 0.1, 0.7, 1.3)
PLAIN = (
    Field("site", 41),
    Field("price", 7, values=NUMBERS),
    Field("hour", 5),
    Field("ad", 29, role="candidate"),
)
OF_ALL_KINDS = (
    Field("history", 29, width=4, same_values_as="ad"),
    Field("site", 41, storage="qr", collisions=4),
    Field("tags", 12, width=2, pooling="sum"),
    Field("device", 30, storage="hashed", collisions=3),
    Field("price", 7, values=NUMBERS),
    Field("ad", 29, role="candidate"),
)
LAYOUTS = {"plain": PLAIN, "all-kinds": OF_ALL_KINDS}
TREES = {"gbdt_lr"}  # their graph holds nothing that could be INT8


@dataclass(frozen=True)
class Graphs:
    """A model, its graphs and ids that it can score."""

    model: nn.Module
    float32: bytes
    int8: bytes | None
    ids: NDArray[np.int32]


def accepts(name: str, layout: str) -> bool:
    """Whether a model can be made for these fields: DIN and DIEN need a history."""
    try:
        make(name, LAYOUTS[layout])
    except ValueError:
        return False
    return True


def make(name: str, fields: tuple[Field, ...]) -> nn.Module:
    """A model with layers just wide enough to be INT8."""
    sizes = {"hidden_units": (64, 48)} if "hidden_units" in inspect.signature(MODELS[name]).parameters else {}
    torch.manual_seed(0)
    return MODELS[name](fields, **sizes)


def random_ids(fields: tuple[Field, ...], rows: int, seed: int = 0) -> NDArray[np.int32]:
    """Ids of all values, sequences of all lengths, without any element too."""
    random = np.random.default_rng(seed)
    columns = []
    for field in fields:
        ids = random.integers(0, field.cardinality, (rows, field.width))
        lengths = random.integers(0, field.width + 1, (rows, 1))
        columns.append(ids if field.width == 1 else np.where(np.arange(field.width) < lengths, ids, 0))
    return np.concatenate(columns, axis=1).astype(np.int32)


@functools.cache
def graphs(name: str, layout: str) -> Graphs:
    """Of weights that differ enough for logits to."""
    model, ids = make(name, LAYOUTS[layout]).eval(), random_ids(LAYOUTS[layout], 600)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    float32 = export_onnx(model, ids.shape[1])
    return Graphs(model, float32, quantize_int8(float32, ids[:300]), ids)


@pytest.fixture(
    params=[(name, layout) for name in MODELS for layout in LAYOUTS if accepts(name, layout)], ids="-".join
)
def zoo(request: pytest.FixtureRequest) -> Graphs:
    return graphs(*request.param)


def test_the_graph_says_what_torch_says(zoo: Graphs) -> None:
    assert check_against_torch(zoo.model, zoo.float32, zoo.ids) <= 1e-4
    assert check_against_torch(zoo.model, zoo.float32, zoo.ids[:1]) <= 1e-4
    assert run_graph(zoo.float32, zoo.ids).std() > 1e-3


@pytest.mark.parametrize("variant", ["float32", "int8"])
def test_no_bit_depends_on_the_batch(zoo: Graphs, variant: str) -> None:
    graph = getattr(zoo, variant)
    if graph is not None:
        check_batch_invariance(graph, zoo.ids, places=5)


def test_int8_is_near_float(zoo: Graphs) -> None:
    if zoo.int8 is None:
        assert type(zoo.model) in {MODELS[name] for name in TREES}
        return
    float32, int8 = run_graph(zoo.float32, zoo.ids), run_graph(zoo.int8, zoo.ids)
    # A shift of all logits alike would move no rank, and the calibrator takes it up.
    assert (int8 - float32).std() < 0.08 * float32.std()
    assert np.corrcoef(float32, int8)[0, 1] > 0.997


@pytest.mark.parametrize("name", MODELS)
def test_equal_weights_give_equal_bytes(name: str) -> None:
    """Even of a model in training mode, and with what training leaves in it."""
    known = graphs(name, "all-kinds")
    model = copy.deepcopy(known.model).train()
    model(torch.from_numpy(known.ids[:50])).sum()
    model.load_state_dict(known.model.state_dict())  # statistics of batches
    assert export_onnx(model, known.ids.shape[1]) == known.float32
    assert model.training


def test_the_graph_is_the_model_and_nothing_else(zoo: Graphs) -> None:
    model = onnx.load_model_from_string(zoo.float32)
    operators = {node.op_type for node in model.graph.node}
    assert not operators & {"ReduceSum", "ReduceMean", "Dropout", "Identity", "Einsum", "Loop", "Scan", "If"}
    read = {name for node in model.graph.node for name in node.input}
    assert {tensor.name for tensor in model.graph.initializer} <= read
    assert not model.functions


@functools.cache
def a_log(layout: str, rows: int = 6000) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Ids, and clicks that follow from each value and from one pair."""
    fields = LAYOUTS[layout]
    ids, random = random_ids(fields, rows, seed=1), np.random.default_rng(2)
    effects = [random.normal(0, 0.7, field.cardinality) for field in fields for _ in range(field.width)]
    logits = sum(effect[column] for effect, column in zip(effects, ids.T, strict=True))
    logits += random.normal(0, 1.0, (64, 64))[ids[:, -1], ids[:, -2] % 64] - 1.0
    return ids, (random.random(rows) < 1 / (1 + np.exp(-logits))).astype(np.float32)


def trained(name: str, layout: str, steps: int = 60) -> nn.Module:
    model = make(name, LAYOUTS[layout])
    ids, labels = (torch.from_numpy(part[:3000]) for part in a_log(layout))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for step in range(steps):
        rows = slice(step * 250 % 3000, step * 250 % 3000 + 250)
        optimizer.zero_grad()
        loss = nn.functional.binary_cross_entropy_with_logits(model(ids[rows]), labels[rows])
        penalty = getattr(model, "penalty", None)
        (loss if penalty is None else loss + penalty).backward()
        optimizer.step()
    return model.eval()


@pytest.mark.parametrize("name", [name for name in MODELS if name not in TREES])
def test_int8_of_a_trained_model_keeps_its_auc(name: str) -> None:
    layout = "all-kinds"
    model = trained(name, layout)
    ids, labels = a_log(layout)
    float32 = export_onnx(model, ids.shape[1])
    int8 = quantize_int8(float32, ids[:1000])
    assert int8 is not None
    before, after = (auc(labels[3000:], sigmoid(run_graph(graph, ids[3000:]))) for graph in (float32, int8))
    assert before > 0.6
    assert abs(after - before) <= AUC_TOLERANCE
