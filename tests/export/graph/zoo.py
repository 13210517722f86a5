"""Trained models of MODELS with their graphs, and the tests that two files run on them.

An export takes seconds, so a process exports a model once, and every test that needs its graphs is here.
"""

from __future__ import annotations

import copy
import functools
import inspect
import itertools
from dataclasses import dataclass

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from export.graph.onnx import export_onnx
from export.graph.quantize import quantize_dynamic, quantize_int8
from export.graph.runtime import run_graph
from export.graph.shared_context import CONTEXT_IDS, REQUEST_INDEX
from export.graph.torch_graph import TorchGraph
from export.graph.unrounded import Unrounded
from export.judge.metrics import auc, sigmoid
from export.judge.parity import AUC_TOLERANCE, check_against_torch, check_batch_invariance
from models import MODELS
from models.fields import Field
from service.bundle.errors import BundleError
from service.bundle.graph_check import check_graph
from tests.export.graph.sharing import check_shared, columns_of_context, random_ids

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
TREES = {"gbdt_lr"}  # their graph has nothing to quantize
ADAPTIVE = tuple(name for name in MODELS if name.startswith("apg_"))
OTHERS = tuple(name for name in MODELS if name not in ADAPTIVE)
TRAINING_ROWS = 3000
JUDGED_ROWS = 20_000  # with fewer rows, noise alone moves the AUC by the tolerance


@dataclass(frozen=True)
class Graphs:
    """A trained model, its graphs, and rows that it was not trained on."""

    name: str
    layout: str
    model: nn.Module
    float32: bytes
    int8: bytes | None
    unrounded: Unrounded
    ids: NDArray[np.int32]
    labels: NDArray[np.float32]


def make(name: str, fields: tuple[Field, ...]) -> nn.Module:
    """A model with layers just wide enough to be INT8."""
    sizes = {"hidden_units": (64, 48)} if "hidden_units" in inspect.signature(MODELS[name]).parameters else {}
    torch.manual_seed(0)
    return MODELS[name](fields, **sizes)


def a_log(fields: tuple[Field, ...], rows: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Ids, and clicks that depend on each value and on one pair."""
    ids, random = random_ids(fields, rows, seed=1), np.random.default_rng(2)
    effects = [random.normal(0, 0.7, field.cardinality) for field in fields for _ in range(field.width)]
    logits = sum(effect[column] for effect, column in zip(effects, ids.T, strict=True))
    logits += random.normal(0, 1.0, (64, 64))[ids[:, -1], ids[:, -2] % 64] - 1.0
    return ids, (random.random(rows) < 1 / (1 + np.exp(-logits))).astype(np.float32)


def train(model: nn.Module, ids: torch.Tensor, labels: torch.Tensor, steps: int = 60) -> None:
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for step in range(steps):
        rows = slice(step * 250 % len(ids), step * 250 % len(ids) + 250)
        optimizer.zero_grad()
        loss = nn.functional.binary_cross_entropy_with_logits(model(ids[rows]), labels[rows])
        penalty = getattr(model, "penalty", None)
        (loss if penalty is None else loss + penalty).backward()
        optimizer.step()


@functools.cache
def graphs(name: str, layout: str) -> Graphs:
    """Trained until logits differ and no parameter has its initial value."""
    model = make(name, LAYOUTS[layout])
    ids, labels = a_log(LAYOUTS[layout], TRAINING_ROWS + JUDGED_ROWS)
    train(model, torch.from_numpy(ids[:TRAINING_ROWS]), torch.from_numpy(labels[:TRAINING_ROWS]))
    float32 = export_onnx(model.eval(), ids.shape[1])
    unrounded = Unrounded()
    int8 = quantize_int8(float32, ids[:1000], unrounded)
    return Graphs(name, layout, model, float32, int8, unrounded, ids[TRAINING_ROWS:], labels[TRAINING_ROWS:])


def test_the_graph_equals_torch(zoo: Graphs) -> None:
    assert check_against_torch(zoo.model, zoo.float32, zoo.ids) <= 1e-4
    assert check_against_torch(zoo.model, zoo.float32, zoo.ids[:1]) <= 1e-4
    assert run_graph(zoo.float32, zoo.ids).std() > 1e-3


@pytest.mark.parametrize("variant", ["float32", "int8"])
def test_no_bit_depends_on_the_batch(zoo: Graphs, variant: str) -> None:
    graph = getattr(zoo, variant)
    if graph is not None:
        check_batch_invariance(graph, zoo.ids[:600], places=5)


def test_int8_is_near_float_and_keeps_its_auc(zoo: Graphs) -> None:
    float32 = run_graph(zoo.float32, zoo.ids)
    before = auc(zoo.labels, sigmoid(float32))
    if zoo.int8 is None:
        assert zoo.name in TREES
        return
    int8 = run_graph(zoo.int8, zoo.ids)
    # A common shift of all logits changes no rank, and calibration removes it.
    assert (int8 - float32).std() < 0.08 * float32.std()
    assert np.corrcoef(float32, int8)[0, 1] > 0.997
    assert before > 0.6
    assert abs(auc(zoo.labels, sigmoid(int8)) - before) <= AUC_TOLERANCE


def test_int8_in_torch_is_the_same_and_can_be_trained(zoo: Graphs) -> None:
    if zoo.int8 is None:
        return
    model, ids = TorchGraph(zoo.int8, zoo.unrounded).eval(), torch.from_numpy(zoo.ids[:1000])
    assert model.graph() == zoo.int8
    assert model.is_trainable
    with torch.no_grad():
        differences = np.abs(model(ids).numpy() - run_graph(zoo.int8, zoo.ids[:1000]))
    # A code that lies on the edge of two may follow the last bit of a float: that of a logarithm, say.
    assert np.median(differences) < 1e-5
    assert differences.max() < 0.01
    model.train()(ids[:50]).sum().backward()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert any(gradient.abs().sum() > 0 for gradient in gradients)


def test_dynamic_int8_is_near_float_alone_and_in_company(zoo: Graphs) -> None:
    dynamic = quantize_dynamic(zoo.float32)
    if dynamic is None:
        return
    ids = zoo.ids[:500]
    expected = run_graph(zoo.float32, ids)
    for batch_size in (1, 500):
        assert np.corrcoef(run_graph(dynamic, ids, batch_size), expected)[0, 1] > 0.997
    with pytest.raises(BundleError, match="DynamicQuantizeLinear"):
        check_graph(dynamic, zoo.name)
    check_graph(dynamic, zoo.name, depends_on_batch=True)


def check_that_equal_weights_give_equal_bytes(zoo: Graphs) -> None:
    """Also for a model in training mode, with the state that training leaves."""
    model = copy.deepcopy(zoo.model).train()
    model(torch.from_numpy(zoo.ids[:50])).sum()
    model.load_state_dict(zoo.model.state_dict())  # batch statistics
    assert export_onnx(model, zoo.ids.shape[1]) == zoo.float32
    assert model.training


def test_the_graph_is_the_model_and_nothing_else(zoo: Graphs) -> None:
    model = onnx.load_model_from_string(zoo.float32)
    operators = {node.op_type for node in model.graph.node}
    assert not operators & {"ReduceSum", "ReduceMean", "Dropout", "Identity", "Einsum", "Loop", "Scan", "If"}
    read = {name for node in model.graph.node for name in node.input}
    assert {tensor.name for tensor in model.graph.initializer} <= read
    assert not model.functions


def test_a_service_accepts_the_graphs(zoo: Graphs) -> None:
    fields = LAYOUTS[zoo.layout]
    for graph in (zoo.float32, zoo.int8):
        if graph is not None:
            check_graph(graph, zoo.name)
            check_graph(check_shared(graph, columns_of_context(fields), fields), zoo.name)


def test_the_shared_context_graph_equals_it(zoo: Graphs) -> None:
    fields = LAYOUTS[zoo.layout]
    of_the_fields = columns_of_context(fields)
    every_other = np.arange(len(of_the_fields)) % 2 == 1  # splits sequences too
    for graph, is_context in itertools.product((zoo.float32, zoo.int8), (of_the_fields, every_other)):
        if graph is not None:
            shared = check_shared(graph, is_context, fields)
            assert_context_is_looked_up_once(shared)


def assert_context_is_looked_up_once(shared: bytes) -> None:
    """Per-row gathers read values computed from the context's ids, never the ids themselves."""
    gathers = [node for node in onnx.load_model_from_string(shared).graph.node if node.op_type == "Gather"]
    to_rows = [node.input[0] for node in gathers if node.input[1] == REQUEST_INDEX]
    assert to_rows
    assert CONTEXT_IDS not in to_rows
