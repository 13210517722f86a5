"""Changes files of a tiny bundle and lists them as an export would; `loadtest.traffic.forged` has others."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from loadtest.traffic.forged import replace_in
from service.bundle.store import load_bundle
from tests.tiny_bundle import HIDDEN

GRAPH = "model.float32.onnx"

Place = tuple[str | int, ...]


def places_in(value: Any, place: Place = ()) -> list[Place]:
    """Where a JSON value has values, itself among them, at any depth."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place, *(found for key, each in inner for found in places_in(each, (*place, key)))]


def rewrite_json(folder: Path, file: str, change: Callable[[Any], object]) -> None:
    """Change what a JSON file holds."""
    record = json.loads((folder / file).read_bytes())
    change(record)
    replace_in(folder, {file: json.dumps(record).encode()})


def rewrite_graph(folder: Path, change: Callable[[onnx.ModelProto], object]) -> None:
    """Change the plain graph of a tiny bundle; its calibrator was fitted on the new one."""
    old = (folder / GRAPH).read_bytes()
    model = onnx.load_model_from_string(old)
    change(model)
    new = model.SerializeToString()
    before, after = (hashlib.sha256(each).hexdigest().encode() for each in (old, new))
    calibration = (folder / "calibration.json").read_bytes().replace(before, after)
    replace_in(folder, {GRAPH: new, "calibration.json": calibration})


def overflow_for(model: onnx.ModelProto, row: int) -> None:
    """Make the embedding of one row so large that its hidden layer computes infinity minus infinity."""
    for tensor in model.graph.initializer:
        if tensor.name == "table":
            table = numpy_helper.to_array(tensor).copy()
            table[row] = 3e38
            tensor.CopyFrom(numpy_helper.from_array(table, "table"))


def overflow_for_an_ad(folder: Path) -> str:
    """Make the weights of a tiny bundle overflow for one ad, which no golden row has; the ad."""
    bundle = load_bundle(folder)
    column = bundle.schema.column_slices["ad"].start
    golden = {row[column] for row in bundle.golden.ids}
    ids = {ad: int(bundle.encoder.encode_column("ad", [ad])[0, 0]) for ad in (f"a{n}" for n in range(10))}
    ad = next(ad for ad, found in ids.items() if found not in golden)

    def change(model: onnx.ModelProto) -> None:
        offsets = next(tensor for tensor in model.graph.initializer if tensor.name == "offsets")
        overflow_for(model, numpy_helper.to_array(offsets)[column] + ids[ad])

    rewrite_graph(folder, change)
    return ad


def load_for_ever(folder: Path) -> None:
    """Give the graph twenty thousand layers, so that its first large batch takes minutes."""
    width, layers = 1024, 20_000

    def deepen(model: onnx.ModelProto) -> None:
        graph = model.graph
        weights = {"in": (HIDDEN, width), "layer": (width, width), "out": (width, 1)}
        graph.initializer.extend(
            numpy_helper.from_array(np.zeros(shape, np.float32), name) for name, shape in weights.items()
        )
        names = ["in", *["layer"] * layers, "out"]
        nodes = [
            helper.make_node("MatMul", [f"x{n}" if n else "live", name], [f"x{n + 1}"])
            for n, name in enumerate(names)
        ]
        before = next(n for n, node in enumerate(graph.node) if "score" in node.input)
        score = graph.node[before]
        score.input[list(score.input).index("score")] = "deep score"
        nodes.append(helper.make_node("Add", ["score", f"x{len(names)}"], ["deep score"]))
        rest = list(graph.node)
        del graph.node[:]
        graph.node.extend([*rest[:before], *nodes, *rest[before:]])

    rewrite_graph(folder, deepen)


def outgrow_memory(folder: Path) -> None:
    """Give the graph a constant of 6 GB that its file holds in two numbers."""

    def grow(model: onnx.ModelProto) -> None:
        graph = model.graph
        graph.initializer.extend(
            [
                numpy_helper.from_array(np.array(1.0, np.float32), "one"),
                numpy_helper.from_array(np.array([1_500_000_000], np.int64), "many"),
                numpy_helper.from_array(np.array([0], np.int32), "first"),
            ]
        )
        score = next(node for node in graph.node if "score" in node.input)
        score.input[list(score.input).index("score")] = "huge score"
        rest = list(graph.node)
        del graph.node[:]
        graph.node.extend(
            [
                *rest[: rest.index(score)],
                helper.make_node("Expand", ["one", "many"], ["huge"]),
                helper.make_node("Gather", ["huge", "first"], ["taken"]),
                helper.make_node("Mul", ["score", "taken"], ["huge score"]),
                *rest[rest.index(score) :],
            ]
        )

    rewrite_graph(folder, grow)
