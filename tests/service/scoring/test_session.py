"""Running a graph: what is refused, and that the logit of a row does not depend on its batch."""

from __future__ import annotations

import logging
import os
from itertools import pairwise
from pathlib import Path

import msgspec
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from service.bundle.errors import BundleError
from service.bundle.manifest import Graph, Tensor
from service.errors import BadConfiguration
from service.scoring.session import NoCuda, Session
from tests.tiny_bundle import tiny_graph, tiny_schema

COLUMNS = tiny_schema().columns
GRAPH = tiny_graph(tiny_schema())


def described(
    ids: Tensor = Tensor("ids", "int32", (None, COLUMNS)),  # noqa: B008 (frozen)
    logits: Tensor = Tensor("logits", "float32", (None,)),  # noqa: B008
) -> Graph:
    return Graph(file="model.float32.onnx", variant="float32", opset=17, inputs=(ids,), outputs=(logits,))


def random_ids(rows: int, seed: int = 0) -> np.ndarray:
    limits = [f.cardinality for f in tiny_schema().fields for _ in range(f.max_length)]
    return np.random.default_rng(seed).integers(0, limits, (rows, COLUMNS)).astype(np.int32)


def test_logits_do_not_depend_on_the_batch() -> None:
    session = Session(GRAPH, described())
    session.try_run(random_ids(64), rows=64)
    ids = random_ids(64)
    logits = session.run(ids)
    assert (logits.shape, logits.dtype, session.provider) == ((64,), np.float32, "CPUExecutionProvider")
    for size in (1, 2, 3, 7, 64):
        parts = [session.run(ids[start : start + size]) for start in range(0, 64, size)]
        np.testing.assert_array_equal(np.concatenate(parts), logits)


def mlp_graph(width: int, layers: int) -> bytes:
    """Embeddings of 39 columns, `layers` of `width` with Relu, one output: the shapes that are served."""
    draw = np.random.default_rng(7)
    sizes = [390, *([width] * layers), 1]
    initializers = [
        numpy_helper.from_array(draw.normal(0, 0.3, (1000, 10)).astype(np.float32), "table"),
        numpy_helper.from_array(np.array([-1, 390]), "wide"),
        numpy_helper.from_array(np.array([-1]), "flat"),
    ]
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["embedded"]),
        helper.make_node("Reshape", ["embedded", "wide"], ["x0"]),
    ]
    for n, (inputs, outputs) in enumerate(pairwise(sizes)):
        weights = draw.normal(0, inputs**-0.5, (inputs, outputs)).astype(np.float32)
        initializers.append(numpy_helper.from_array(weights, f"w{n}"))
        initializers.append(numpy_helper.from_array(draw.normal(size=outputs).astype(np.float32), f"b{n}"))
        nodes.append(helper.make_node("Gemm", [f"x{n}", f"w{n}", f"b{n}"], [f"y{n}"]))
        nodes.append(helper.make_node("Relu", [f"y{n}"], [f"x{n + 1}"]))
    nodes[-1] = helper.make_node("Reshape", [f"y{layers}", "flat"], ["logits"])
    graph = helper.make_graph(
        nodes,
        "mlp",
        [helper.make_tensor_value_info("ids", TensorProto.INT32, ["batch", 39])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch"])],
        initializers,
    )
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    ).SerializeToString()


@pytest.mark.parametrize("width", [96, 172, 400])
def test_no_row_of_a_real_sized_float32_graph_depends_on_its_batch(width: int) -> None:
    """ONNX Runtime takes another path for one row; if it rounded differently, that row would need padding."""
    session = Session(mlp_graph(width, 3), described(Tensor("ids", "int32", (None, 39))))
    ids = np.random.default_rng(1).integers(0, 1000, (200, 39)).astype(np.int32)
    logits = session.run(ids)
    for size in (1, 2, 3, 16, 33):
        parts = [session.run(ids[start : start + size]) for start in range(0, 200, size)]
        np.testing.assert_array_equal(np.concatenate(parts), logits)


def test_ids_are_cast_to_the_type_of_the_graph() -> None:
    model = onnx.load_from_string(GRAPH)
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.INT64
    for tensor in model.graph.initializer:
        if tensor.name == "offsets":
            tensor.CopyFrom(
                numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.int64), "offsets")
            )
    session = Session(model.SerializeToString(), described(Tensor("ids", "int64", (None, COLUMNS))))
    ids = random_ids(5)
    np.testing.assert_array_equal(session.run(ids), Session(GRAPH, described()).run(ids))


@pytest.mark.parametrize(
    "description",
    [
        described(ids=Tensor("rows", "int32", (None, COLUMNS))),
        described(ids=Tensor("ids", "int64", (None, COLUMNS))),
        described(ids=Tensor("ids", "int32", (None, COLUMNS + 1))),
        described(ids=Tensor("ids", "int32", (8, COLUMNS))),
        described(logits=Tensor("logits", "float64", (None,))),
        described(logits=Tensor("logits", "float32", (None, 1))),
    ],
)
def test_a_graph_that_is_not_what_the_manifest_says_is_refused(description: Graph) -> None:
    with pytest.raises(BundleError, match=r"'model.float32.onnx' must be a graph with the one (in|out)put"):
        Session(GRAPH, description)


@pytest.mark.parametrize("graph", [b"", b"not a graph", GRAPH[:-40], b"\xff" * 30])
def test_bytes_that_are_not_a_graph_are_refused_in_one_line(graph: bytes) -> None:
    with pytest.raises(BundleError, match=r"model\.float32\.onnx") as caught:
        Session(graph, described())
    assert "\n" not in str(caught.value)


def external(graph: bytes) -> bytes:
    """`graph` with its table in an external file in the working directory."""
    model = onnx.load_from_string(graph)
    table = next(tensor for tensor in model.graph.initializer if tensor.name == "table")
    Path("table.bin").write_bytes(table.raw_data)
    table.ClearField("raw_data")
    table.data_location = TensorProto.EXTERNAL
    entry = table.external_data.add()
    entry.key, entry.value = "location", "table.bin"
    return model.SerializeToString()


def test_a_graph_that_would_read_a_file_is_refused(tmp_path: Path) -> None:
    before = Path.cwd()
    os.chdir(tmp_path)
    try:
        graph = external(GRAPH)
        # ONNX Runtime itself would read the file: this is what the check prevents.
        onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
        with pytest.raises(BundleError, match="tensor 'table' in a file of its own"):
            Session(graph, described())
    finally:
        os.chdir(before)


def table_as_input() -> tuple[bytes, Graph, dict[str, np.ndarray]]:
    """The tiny graph with its table as an input, as graphs with a shared context have it."""
    model = onnx.load_from_string(GRAPH)
    table = next(tensor for tensor in model.graph.initializer if tensor.name == "table")
    values = numpy_helper.to_array(table).copy()
    values.flags.writeable = False
    model.graph.initializer.remove(table)
    model.graph.input.append(helper.make_tensor_value_info("table", TensorProto.FLOAT, values.shape))
    inputs = (*described().inputs, Tensor("table", "float32", values.shape))
    return model.SerializeToString(), msgspec.structs.replace(described(), inputs=inputs), {"table": values}


@pytest.mark.parametrize("tables_are", ["initializers", "inputs"])
def test_bound_inputs_give_the_same_logits_in_batches_of_any_size(tables_are: str) -> None:
    graph, description, tables = table_as_input()
    if tables_are == "initializers":
        graph, description = GRAPH, described()
    plain, bound = (Session(graph, description, "cpu", tables, binding) for binding in (None, True))
    kept = []
    for number, rows in enumerate((64, 1, 7, 64, 256, 1)):
        ids = random_ids(rows, seed=number)
        kept.append((bound.run(ids), plain.run(ids)))
        del ids
    for logits, expected in kept:  # no later call overwrote them
        np.testing.assert_array_equal(logits, expected)
    columns = np.asfortranarray(random_ids(9))
    np.testing.assert_array_equal(bound.run(columns), plain.run(columns))


def test_a_bound_session_still_runs_after_a_batch_that_failed() -> None:
    session = Session(GRAPH, described(), io_binding=True)
    with pytest.raises(BundleError, match="a graph that runs"):
        session.try_run(np.full((5, COLUMNS), 10**6, np.int32), rows=5)
    session.try_run(random_ids(5), rows=5)
    ids = random_ids(3)
    np.testing.assert_array_equal(session.run(ids), Session(GRAPH, described()).run(ids))


def test_a_batch_that_fails_writes_nothing_past_the_log(capfd: pytest.CaptureFixture[str]) -> None:
    session = Session(GRAPH, described())
    for _ in range(3):
        with pytest.raises(Exception, match="out of data bounds"):
            session.run(np.full((5, COLUMNS), 10**6, np.int32))
    assert capfd.readouterr() == ("", "")


def test_cuda_falls_back_with_a_warning_or_refuses(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "bidlight"):
        session = Session(GRAPH, described(), "cuda")
    if session.provider == "CUDAExecutionProvider":  # a machine that has it
        assert Session(GRAPH, described(), "cuda-required").provider == session.provider
        return
    assert "running on the CPU although device is cuda" in caplog.text
    with pytest.raises(NoCuda, match="cuda-required") as refused:
        Session(GRAPH, described(), "cuda-required")
    assert isinstance(refused.value, BadConfiguration)
    assert refused.value.reason in caplog.text
