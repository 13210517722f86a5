"""Layers whose INT8 loses AUC beyond noise stay float32, as few as are needed."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from export.graph.int8_layers import gaining_layers
from export.graph.onnx import export_onnx
from export.graph.quantize import quantize_int8
from export.graph.runtime import run_graph
from export.graph.torch_graph import TorchGraph
from export.graph.unrounded import Unrounded
from export.judge.metrics import auc
from export.judge.parity import check_batch_invariance
from export.report.changes import float_layer_lines
from export.stages.float_layers import Int8Choice, JudgedRows, choose_int8
from models.dnn import DNN
from models.fields import Field

FIELDS = tuple(Field(f"f{number}", 50) for number in range(5))
RANGES = np.zeros((64, 5), np.int32)
"""Rows that are nothing like those that are judged: ranges found on them cut off what others make."""


@pytest.fixture(scope="module")
def graph() -> bytes:
    torch.manual_seed(3)
    model = DNN(FIELDS, dim=10, hidden_units=(60, 60, 60)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    with torch.no_grad():
        model.embedding.table.weight[:: FIELDS[0].cardinality] *= 0.05
    return export_onnx(model, len(FIELDS))


@pytest.fixture(scope="module")
def rows(graph: bytes) -> JudgedRows:
    generator = np.random.default_rng(4)
    ids = generator.integers(0, 50, (4000, 5)).astype(np.int32)
    logits = run_graph(graph, ids)
    odds = (logits - logits.mean()) / logits.std() * 2
    return JudgedRows(ids, (generator.random(4000) < 1 / (1 + np.exp(-odds))).astype(np.uint8))


def maker(graph: bytes) -> Callable[[Collection[str]], bytes | None]:
    return lambda kept: quantize_int8(graph, RANGES, kept=kept)


def choose(graph: bytes, rows: JudgedRows, allowed: float = 0.001) -> tuple[Int8Choice, list[str]]:
    lines: list[str] = []
    return choose_int8(graph, maker(graph), rows, allowed, lines.append), lines


def test_the_layers_that_lose_most_stay_float32(graph: bytes, rows: JudgedRows) -> None:
    names = {layer.name: layer for layer in gaining_layers(graph)}
    _, *others = names
    made, lines = choose(graph, rows)
    assert made.graph is not None
    assert made.told is not None
    assert made.kept == set(others), "the first layer reads codes, whose range is known"
    shipped = {
        one.name: numpy_helper.to_array(one) for one in onnx.load_from_string(made.graph).graph.initializer
    }
    for name in others:
        np.testing.assert_array_equal(
            shipped[names[name].weights],
            next(numpy_helper.to_array(one) for one in onnx.load_from_string(graph).graph.initializer
                 if one.name == names[name].weights),
        )  # fmt: skip
    check_batch_invariance(made.graph, rows.ids[:200])

    tables, whole = maker(graph)(names), maker(graph)(())
    assert tables is not None
    assert whole is not None
    before = auc(rows.labels, run_graph(tables, rows.ids))
    lost, left = made.told.auc_deltas
    assert lost == pytest.approx(auc(rows.labels, run_graph(whole, rows.ids)) - before)
    assert left == pytest.approx(auc(rows.labels, run_graph(made.graph, rows.ids)) - before)
    assert left >= -0.001 > lost
    assert [layer.auc_delta for layer in made.told.layers] == sorted(
        layer.auc_delta for layer in made.told.layers
    )
    assert made.told.bytes == len(made.graph) - len(whole) > 0
    assert lines[1:] == float_layer_lines(made.told)


def test_none_stays_where_a_loss_is_allowed_or_no_more_than_noise(graph: bytes, rows: JudgedRows) -> None:
    whole = maker(graph)(())
    assert choose(graph, rows, allowed=1.0)[0] == Int8Choice(whole)
    unlearned = replace(rows, labels=np.random.default_rng(5).integers(0, 2, 4000).astype(np.uint8))
    assert choose(graph, unlearned, allowed=0.0) == (Int8Choice(whole), [])
    assert choose(graph, replace(rows, labels=np.zeros(4000, np.uint8)))[0] == Int8Choice(whole)


def test_a_graph_with_such_layers_can_be_trained_on(graph: bytes, rows: JudgedRows) -> None:
    made, _ = choose(graph, rows)
    unrounded = Unrounded()
    again = quantize_int8(graph, RANGES, None, unrounded, made.kept)
    assert again == made.graph
    model = TorchGraph(again, unrounded).eval()
    with torch.no_grad():
        logits = model(torch.from_numpy(rows.ids[:300])).numpy()
    np.testing.assert_allclose(logits, run_graph(again, rows.ids[:300]), atol=1e-4)
