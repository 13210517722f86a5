"""A bundle -> others like it that are worse on purpose, whole and with golden rows that fit."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from export.bundles.scorer import Scorer
from export.graph.runtime import graph_scorer, run_graph
from export.teach.lesson import level_shift
from loadtest.traffic.forged import copy_with
from service.bundle.calibration import CALIBRATION_FILE, calibrators_to_file, segments_of
from service.bundle.encodings import MISSING_ID
from service.bundle.log_odds import log_odds_of
from service.bundle.manifest import GOLDEN_FILE
from service.bundle.store import Bundle, load_bundle

# The sides of matrices that take time.
SIDE = 512

Ids = NDArray[np.int32]


def shuffled(bundle: Path, folder: Path) -> Path:
    """Its embeddings belong to other values."""
    order = np.random.default_rng(0)
    return _with_table(bundle, folder, lambda table, _: table[order.permutation(len(table))])


def without(bundle: Path, folder: Path, field: str) -> Path:
    """It does not see a field: each value has the embedding of none."""

    def drop(table: NDArray[Any], offsets: NDArray[Any]) -> NDArray[Any]:
        place = [each.name for each in load_bundle(bundle).schema.fields].index(field)
        first, last = _rows_of(offsets, len(table), place)
        table = table.copy()
        table[first:last] = table[first + MISSING_ID]
        return table

    return _with_table(bundle, folder, drop)


def scaled(bundle: Path, folder: Path, ids: Ids, factor: float) -> Path:
    """The mean pCTR of these rows [n, fields] is so many times what it was, by a shift of all log-odds."""
    found = load_bundle(bundle)
    scorer = Scorer(found)
    pctrs = scorer.served_pctr(scorer.logits(ids), ids)
    shift = level_shift(log_odds_of(pctrs), factor * float(pctrs.mean()))
    calibrators = {
        each.variant: msgspec.structs.replace(
            each,
            intercept=each.intercept + shift,
            knots=tuple((logit, calibrated + shift) for logit, calibrated in each.knots),
        )
        for each in found.calibrators.values()
    }
    return _saved(found, folder, {}, calibrators)


def slower(bundle: Path, folder: Path, milliseconds: float) -> Path:
    """Each of its batches takes so much longer: products of matrices, whose result counts nothing."""
    found = load_bundle(bundle)
    count = max(1, round(milliseconds / _milliseconds_of_product()))
    graph = found.manifest.graphs[found.manifest.serving_variant]
    shared = [] if graph.shared_context is None else [graph.shared_context.file]
    files = {}
    for name in (graph.file, *shared):
        model = onnx.load(bundle / name)
        output = model.graph.output[0].name
        for node in model.graph.node:
            node.output[:] = ["before" if each == output else each for each in node.output]
            node.input[:] = ["before" if each == output else each for each in node.input]
        nodes, tensors = _products(count)
        model.graph.initializer.extend(tensors)
        model.graph.node.extend([*nodes, helper.make_node("Add", ["before", "slow_nothing"], [output])])
        files[name] = model.SerializeToString()
    return _saved(found, folder, files, found.calibrators)


def best_field(bundle: Path, ids: Ids, truth: NDArray[np.float64]) -> str:
    """The field without which LogLoss grows most on rows [n, fields] of true probabilities [n]."""
    found = load_bundle(bundle)
    scorer, losses = Scorer(found), {}
    for place, field in enumerate(found.schema.fields):
        if field.kind == "sequence":
            continue
        changed = ids.copy()
        changed[:, place] = MISSING_ID
        pctrs = scorer.served_pctr(scorer.logits(changed), changed)
        losses[field.name] = float(-(truth * np.log(pctrs) + (1.0 - truth) * np.log1p(-pctrs)).mean())
    return max(losses, key=lambda name: losses[name])


def _with_table(
    bundle: Path, folder: Path, change: Callable[[NDArray[Any], NDArray[Any]], NDArray[Any]]
) -> Path:
    """A copy whose served graph has another table of embeddings; `change` gets it and the fields' offsets."""
    found = load_bundle(bundle)
    graph = found.manifest.graphs[found.manifest.serving_variant]
    model = onnx.load(bundle / graph.file)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    (name,) = graph.tables
    table = change(numpy_helper.to_array(tensors[name]), numpy_helper.to_array(tensors["offsets"]))
    tensors[name].CopyFrom(numpy_helper.from_array(table, name))
    return _saved(found, folder, {graph.file: model.SerializeToString()}, found.calibrators)


def _rows_of(offsets: NDArray[Any], rows: int, place: int) -> tuple[int, int]:
    """The first row of a field in the table, and the first of the next one."""
    first = int(offsets[place])
    return first, min((int(each) for each in offsets if each > first), default=rows)


def _saved(found: Bundle, folder: Path, graphs: dict[str, bytes], calibrators: dict[str, Any]) -> Path:
    """A copy with other graphs and calibrators, and golden rows as these answer them."""
    variant = found.manifest.serving_variant
    graph = graphs.get(found.manifest.graphs[variant].file, found.graphs[variant])
    digest = hashlib.sha256(graph).hexdigest()
    calibrators = {**calibrators, variant: msgspec.structs.replace(calibrators[variant], graph_sha256=digest)}
    ids = np.array(found.golden.ids, np.int32)
    logits = run_graph(graph, ids).astype(np.float64)
    variants = {}
    for name, outputs in found.golden.variants.items():
        these = logits if name == variant else np.array(outputs.logits)
        pctrs = calibrators[name].pctr(these, segments_of(calibrators[name], found.schema, ids))
        variants[name] = msgspec.structs.replace(
            outputs, logits=tuple(these.tolist()), pctrs=tuple(pctrs.tolist())
        )
    golden = msgspec.structs.replace(found.golden, variants=variants)
    files = {
        **graphs,
        CALIBRATION_FILE: calibrators_to_file(list(calibrators.values())),
        GOLDEN_FILE: msgspec.json.encode(golden),
    }
    return copy_with(found.folder, folder, files)


def _products(count: int) -> tuple[list[Any], list[Any]]:
    """Nodes that multiply matrices by one that rests on the tensor `before` [n], and their constants.

    The result, `slow_nothing` [1], is 0, which no optimizer knows before it runs.
    """
    constants: dict[str, NDArray[Any]] = {
        "slow_matrix": np.full((SIDE, SIDE), 1.0 / SIDE, np.float32),
        "slow_from": np.zeros(1, np.int64),
        "slow_to": np.ones(1, np.int64),
        "slow_square": np.ones(2, np.int64),
        "slow_corner_from": np.zeros(2, np.int64),
        "slow_line": np.ones(1, np.int64),
        "slow_zero": np.zeros(1, np.float32),
    }
    nodes = [
        helper.make_node("Slice", ["before", "slow_from", "slow_to"], ["slow_first"]),
        helper.make_node("Reshape", ["slow_first", "slow_square"], ["slow_one"]),
        helper.make_node("Mul", ["slow_one", "slow_matrix"], ["slow_0"]),
        *(
            helper.make_node("MatMul", [f"slow_{step}", "slow_matrix"], [f"slow_{step + 1}"])
            for step in range(count)
        ),
        helper.make_node("Slice", [f"slow_{count}", "slow_corner_from", "slow_square"], ["slow_corner"]),
        helper.make_node("Reshape", ["slow_corner", "slow_line"], ["slow_sum"]),
        helper.make_node("Mul", ["slow_sum", "slow_zero"], ["slow_nothing"]),
    ]
    return nodes, [numpy_helper.from_array(value, name) for name, value in constants.items()]


def _milliseconds_of_product(count: int = 20) -> float:
    """What one product takes on one thread of this machine, the least of some tries."""
    nodes, tensors = _products(count)
    value = helper.make_tensor_value_info
    ids, logits = value("ids", onnx.TensorProto.INT32, [None]), value("logits", onnx.TensorProto.FLOAT, [1])
    nodes = [
        helper.make_node("Cast", ["ids"], ["before"], to=onnx.TensorProto.FLOAT),
        *nodes,
        helper.make_node("Identity", ["slow_nothing"], ["logits"]),
    ]
    graph = helper.make_graph(nodes, "slow", [ids], [logits], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    run = graph_scorer(model.SerializeToString())
    taken = []
    for _ in range(5):
        began = time.perf_counter()
        run(np.ones(1, np.int32))
        taken.append(time.perf_counter() - began)
    return 1e3 * min(taken) / count
