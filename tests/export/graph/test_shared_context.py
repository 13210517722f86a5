"""The shared-context graph equals the plain one for any requests, with the same bits in any batch."""

from __future__ import annotations

import functools

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from export.errors import ExportError
from export.graph.onnx import export_onnx
from export.graph.quantize import quantize_int8
from export.graph.runtime import open_session
from export.graph.shared_context import CANDIDATE_IDS, CONTEXT_IDS, REQUEST_INDEX, share_context
from models import MODELS
from models.deep_fwfm import DeepFwFM
from models.dnn import DNN
from models.fields import Field
from models.final_mlp import FinalMLP
from tests.export.graph.sharing import (
    TOLERANCE,
    check_shared,
    columns_of_context,
    random_ids,
    score,
    session_of,
)

MIXED = (
    Field("ad", 29, role="candidate"),
    Field("site", 41),
    Field("tags", 12, width=3, role="candidate"),
    Field("history", 29, width=4, same_values_as="ad"),
    Field("size", 9, role="candidate"),
    Field("hour", 5),
)


@pytest.mark.parametrize("name", ["deep_fwfm", "fwfm", "dnn", "lr", "fm", "dcn_v2", "din"])
@pytest.mark.parametrize("variant", ["float32", "int8"])
def test_mixed_columns_and_sequences_on_both_sides(name: str, variant: str) -> None:
    check_shared(mixed_graph(name, variant), columns_of_context(MIXED), MIXED)


def test_float_layers_below_int8_layers_stay_float_in_both_graphs() -> None:
    """The gates' first layers, and that of a stream: ONNX Runtime would quantize some of them by itself."""
    fields = (Field("site", 41), Field("price", 7), Field("hour", 5), Field("ad", 29, role="candidate"))
    torch.manual_seed(0)
    model = FinalMLP(
        fields, hidden_units=(64,), second_units=(48,), stream_units=64, first_gate="site", second_gate="ad"
    )
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    int8 = quantize_int8(export_onnx(model.eval(), 4), random_ids(fields, 500))
    assert int8 is not None
    check_shared(int8, columns_of_context(fields), fields)


@functools.cache
def mixed_graph(name: str, variant: str) -> bytes:
    float32 = mixed_float_graph(name)
    if variant == "float32":
        return float32
    int8 = quantize_int8(float32, random_ids(MIXED, 500))
    assert int8 is not None
    return int8


@functools.cache
def mixed_float_graph(name: str) -> bytes:
    torch.manual_seed(3)
    sizes = {"hidden_units": (64, 48)} if name in ("deep_fwfm", "dnn", "din") else {}
    model = MODELS[name](MIXED, **sizes)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return export_onnx(model.eval(), sum(field.width for field in MIXED))


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_requests_in_any_order(data) -> None:
    """With requests without candidates and rows in any order, each row gets the logit that it gets alone."""
    graph = mixed_graph("deep_fwfm", data.draw(st.sampled_from(["float32", "int8"])))
    is_context = columns_of_context(MIXED)
    shared = share_once(graph, tuple(is_context.tolist()))
    requests = random_ids(MIXED, data.draw(st.integers(1, 30)), seed=data.draw(st.integers(0, 9)))
    index = data.draw(st.lists(st.integers(0, len(requests) - 1), min_size=1, max_size=70))
    rows = random_ids(MIXED, len(index), seed=data.draw(st.integers(10, 19)))
    together = score(shared, is_context, requests, rows, index)
    plain = run_session(graph, np.where(is_context, requests[index], rows))
    np.testing.assert_allclose(together, plain, rtol=0, atol=TOLERANCE)
    alone = [
        score(shared, is_context, requests[[request]], rows[[row]], [0])[0]
        for row, request in enumerate(index)
    ]
    assert together.tobytes() == np.array(alone, np.float32).tobytes()


share_once = functools.cache(share_context)


def run_session(graph: bytes, ids: NDArray[np.int32]) -> NDArray[np.float32]:
    return session_of(graph).run(None, {"ids": ids})[0]


@pytest.mark.parametrize(
    ("hidden_units", "dim"),
    [((400, 400, 400), 10), ((172, 129, 243), 10), ((97, 1), 10), ((3,), 10), ((24, 24), 4)],
)
def test_layers_of_serving_size(hidden_units: tuple[int, ...], dim: int) -> None:
    fields = [Field(f"f{n}", 30, role="candidate" if n % 5 == 0 else "context") for n in range(39)]
    torch.manual_seed(0)
    model = DeepFwFM(fields, dim, hidden_units)
    torch.nn.init.normal_(model.embedding.table.weight, std=0.3)
    float32 = export_onnx(model, 39)
    int8 = quantize_int8(float32, random_ids(tuple(fields), 300))
    assert int8 is not None
    for graph in (float32, int8):
        check_shared(graph, columns_of_context(fields), fields)


@pytest.mark.parametrize("hidden_units", [(64, 48), (400, 400)])
def test_int8_layers_keep_every_bit(hidden_units: tuple[int, ...]) -> None:
    """Integer sums do not depend on order, so a perceptron on codes equals the plain graph exactly."""
    fields = [Field(f"f{n}", 50, role="candidate" if n % 4 == 0 else "context") for n in range(20)]
    torch.manual_seed(0)
    model = DNN(fields, 10, hidden_units)
    torch.nn.init.normal_(model.embedding.table.weight, std=0.3)
    int8 = quantize_int8(export_onnx(model.eval(), 20), random_ids(tuple(fields), 500))
    assert int8 is not None
    shared = check_shared(int8, columns_of_context(fields), fields, tolerance=0.0)
    operators = [node.op_type for node in onnx.load_model_from_string(shared).graph.node]
    assert operators.count("MatMulInteger") == 1


def test_equal_graphs_give_equal_bytes() -> None:
    graph = mixed_graph("deep_fwfm", "int8")
    assert share_context(graph, columns_of_context(MIXED)) == share_context(graph, columns_of_context(MIXED))


def test_names_types_and_shapes() -> None:
    shared = share_context(mixed_graph("dnn", "float32"), columns_of_context(MIXED))
    session = open_session(shared)
    assert [(value.name, value.type, value.shape) for value in session.get_inputs()] == [
        ("context_ids", "tensor(int32)", ["requests", 6]),
        ("candidate_ids", "tensor(int32)", ["rows", 5]),
        ("request_index", "tensor(int32)", ["rows"]),
    ]
    assert [(value.name, value.shape) for value in session.get_outputs()] == [("logits", ["rows"])]


def test_ids_of_64_bits_stay_so() -> None:
    model = DNN(MIXED, 4, (8,)).eval()
    shared = share_context(export_onnx(model, 11, ids_type="int64"), columns_of_context(MIXED))
    assert [value.type for value in open_session(shared).get_inputs()] == [
        *["tensor(int64)"] * 2,
        "tensor(int32)",
    ]


def test_one_side_alone_has_nothing_to_share() -> None:
    graph = mixed_graph("dnn", "float32")
    assert share_context(graph, [True] * 11) is None
    assert share_context(graph, [False] * 11) is None


def test_columns_of_another_schema_are_refused() -> None:
    with pytest.raises(ExportError, match=r"'is_context' must have one entry for .* 11 columns \(got 10\)"):
        share_context(mixed_graph("dnn", "float32"), [True] * 9 + [False])


def test_the_first_layer_adds_the_requests_share_by_its_bias() -> None:
    """The rewrite adds one per-row node, a Gather, whose result is the bias of a Gemm."""
    fields = [Field(f"f{n}", 50, role="candidate" if n > 5 else "context") for n in range(8)]
    graph = export_onnx(DNN(fields, 10, (40, 30)).eval(), 8)
    operators = [
        node.op_type
        for node in onnx.load_model_from_string(share_context(graph, [True] * 6 + [False] * 2)).graph.node
    ]
    assert operators.count("Gemm") == 4  # one per request, three per row
    assert operators.count("Gather") == 3  # two embeddings, one to rows
    assert operators.count("Add") == 2  # ids and offsets


# Any chain of operators on [batch, fields, dim], as the shape of the value allows.
def _constant(random: np.random.Generator, *shape: int) -> NDArray[np.float32]:
    return random.normal(0, 0.5, shape).astype(np.float32)


class Chain:
    """A graph made of random steps: ids -> embeddings -> ... -> logits."""

    def __init__(self, fields: int, dim: int, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.fields = fields
        table = self.constant(_constant(self.random, 50, dim))
        self.value, self.shape = self.add("Gather", [table, "ids"]), (fields, dim)
        self.first = self.value, self.shape

    def constant(self, values: np.ndarray) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(values, name))
        return name

    def add(self, operator: str, inputs: list[str], **attributes: object) -> str:
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [name], **attributes))
        return name

    def step(self, kind: str) -> None:
        random, shape = self.random, self.shape
        value, rank = self.value, len(self.shape)
        axis = int(random.integers(rank))
        if kind == "transpose" and rank > 1:
            order = random.permutation(rank)
            self.value = self.add("Transpose", [value], perm=[0, *(int(a) + 1 for a in order)])
            self.shape = tuple(shape[a] for a in order)
        elif kind == "flatten":
            self.value = self.add("Reshape", [value, self.constant(np.array([-1, int(np.prod(shape))]))])
            self.shape = (int(np.prod(shape)),)
        elif kind == "fold" and rank == 1 and shape[0] % 2 == 0:
            self.value = self.add("Reshape", [value, self.constant(np.array([-1, shape[0] // 2, 2]))])
            self.shape = (shape[0] // 2, 2)
        elif kind == "slice" and shape[axis] > 2:
            ends = [self.constant(np.array([n], np.int64)) for n in (1, shape[axis], axis + 1)]
            self.value = self.add("Slice", [value, *ends])
            self.shape = (*shape[:axis], shape[axis] - 1, *shape[axis + 1 :])
        elif kind == "choose":
            chosen = random.integers(0, shape[axis], 4)
            self.value = self.add("Gather", [value, self.constant(chosen)], axis=axis + 1)
            self.shape = (*shape[:axis], 4, *shape[axis + 1 :])
        elif kind in ("Mul", "Add", "Sub", "Div"):
            by_axis = [size if random.random() < 0.6 else 1 for size in shape]
            inputs = [value, self.constant(_constant(random, *by_axis) + 2.0)]
            self.value = self.add(kind, inputs if random.random() < 0.7 else inputs[::-1])
            if kind == "Div":
                self.value = self.add("Tanh", [self.value])
        elif kind in ("Relu", "Tanh"):
            self.value = self.add(kind, [value])
        elif kind == "square":
            self.value = self.add("Mul", [value, value])
        elif kind == "meet" and self.first[1] == shape:
            self.value = self.add(str(random.choice(["Mul", "Add", "Sub"])), [value, self.first[0]])
        elif kind == "keep":
            self.first = value, shape
        elif kind == "right":
            out = int(random.integers(1, 6))
            weight = _constant(random, shape[-1], out) * (random.random((shape[-1], out)) < 0.6)
            self.value = self.add("MatMul", [value, self.constant(weight.astype(np.float32))])
            self.shape = (*shape[:-1], out)
        elif kind == "left" and rank == 2:
            self.value = self.add("MatMul", [self.constant(_constant(random, 3, shape[0])), value])
            self.shape = (3, shape[1])
        elif kind == "twice":
            self.value = self.add("Concat", [value, value], axis=axis + 1)
            self.shape = (*shape[:axis], 2 * shape[axis], *shape[axis + 1 :])
        elif kind == "softmax":
            self.value = self.add("Softmax", [value], axis=-1)

    def graph(self) -> bytes:
        self.step("flatten")
        weight = self.constant(_constant(self.random, self.shape[0], 1))
        bias = self.constant(_constant(self.random, 1))
        self.add("Gemm", [self.value, weight, bias])
        self.nodes.append(
            helper.make_node(
                "Reshape", [f"v{len(self.nodes) - 1}", self.constant(np.array([-1]))], ["logits"]
            )
        )
        graph = helper.make_graph(
            self.nodes,
            "chain",
            [helper.make_tensor_value_info("ids", TensorProto.INT32, ["batch", self.fields])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch"])],
            self.constants,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
        onnx.checker.check_model(model)
        return model.SerializeToString()


KINDS = (
    *("transpose", "flatten", "fold", "slice", "choose", "twice", "keep", "meet", "square", "softmax"),
    *("Mul", "Add", "Sub", "Div", "Relu", "Tanh", "right", "left"),
)


@settings(max_examples=150, deadline=None)
@given(
    kinds=st.lists(st.sampled_from(KINDS), max_size=8),
    is_context=st.lists(st.booleans(), min_size=2, max_size=6).filter(
        lambda sides: 0 < sum(sides) < len(sides)
    ),
    dim=st.integers(1, 5),
    seed=st.integers(0, 1000),
)
def test_any_chain_of_operators(kinds: list[str], is_context: list[bool], dim: int, seed: int) -> None:
    chain = Chain(len(is_context), dim, seed)
    for kind in kinds:
        chain.step(kind)
    graph = chain.graph()
    shared = share_context(graph, is_context)
    assert shared is not None
    random, side = np.random.default_rng(seed), np.array(is_context)
    index = np.array([0, 2, 2, 1, 2, 0])
    requests, rows = (random.integers(0, 50, (n, len(side))).astype(np.int32) for n in (3, 6))
    plain = open_session(graph).run(None, {"ids": np.where(side, requests[index], rows)})[0]
    inputs = {
        CONTEXT_IDS: requests[:, side],
        CANDIDATE_IDS: rows[:, ~side],
        REQUEST_INDEX: index.astype(np.int32),
    }
    logits = open_session(shared).run(None, inputs)[0]
    np.testing.assert_allclose(logits, plain, rtol=1e-4, atol=1e-4 * max(1.0, float(np.abs(plain).max())))
