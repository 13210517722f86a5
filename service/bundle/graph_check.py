"""Checks an ONNX graph before ONNX Runtime sees it: operators, attributes, and tensors; it runs nothing.

A graph is code: a loop may never end, a custom operator may do anything, a tensor may name another file, and
a single nan weight, in a table row that no golden row reads, makes every pCTR nan that uses it. What the
export writes needs little of ONNX, so all else is refused.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

import numpy as np

from service.bundle.bounds import MAX_NODES, MAX_TREE_NODES
from service.bundle.errors import EXPORT_AGAIN, BundleError, show
from service.bundle.graph_tensors import GRAPH, INITIALIZER, tensor_of
from service.bundle.protobuf import fields, varints

_ONNX = """
Abs Add Atan Cast Clip Concat Cos DequantizeLinear Div Equal Exp Expand Gather Gemm Greater IsNaN
LayerNormalization LeakyRelu Less Log MatMul MatMulInteger Max Mod Mul Neg Not Or QuantizeLinear Range
Relu Reshape Shape Sigmoid Sin Slice Softmax Split Squeeze Sub Tanh Transpose Unsqueeze Where
"""
OPERATORS = {"": frozenset(_ONNX.split()), "ai.onnx.ml": frozenset({"TreeEnsembleRegressor"})}
"""The operators that the graphs of bundles may have, by domain.

None of them holds a graph, reads a file, or takes longer than its inputs and outputs are large. How large
outputs become is not known before a graph runs: service/arms/limits.py bounds the memory of a load.
"""

# Fields of Model, OperatorSet, Graph, Node and Attribute (onnx.proto).
_OPSET, _DOMAIN_OF_OPSET = 8, 1
_NODE = 1
_OP_TYPE, _ATTRIBUTE, _DOMAIN = 4, 5, 7
_ATTRIBUTE_NAME, _FLOAT, _INT, _TEXT, _FLOATS, _INTS, _TEXTS = 1, 2, 3, 4, 7, 8, 9
# Fields that have text or plain numbers, and no effect on what runs.
_PLAIN = {
    "model": {1, 2, 3, 4, 5, 6, 14},  # versions, producer, metadata
    "graph": {2, 10, 11, 12, 13, 14, 16},  # name, inputs and outputs, shapes, metadata
    "node": {1, 2, 3, 6, 9},  # inputs and outputs, name
    "attribute": {13, 20},  # type
}
_TREE_OF_A_NODE = "nodes_treeids"


BATCH_OPERATORS = frozenset({"DynamicQuantizeLinear"})
"""What only a graph may have whose manifest says that a row depends on its batch."""


def check_graph(graph: bytes, file: str, *, depends_on_batch: bool = False) -> None:
    """Raises BundleError with `file` unless the graph holds all that it needs, and nothing but that."""
    operators = {**OPERATORS, "": OPERATORS[""] | BATCH_OPERATORS} if depends_on_batch else OPERATORS
    try:
        for expected, found, remedy in _faults(graph, operators):
            raise BundleError(file, expected, found, remedy)
    except BundleError:
        raise
    except ValueError as error:
        raise BundleError(file, "an ONNX graph", str(error), EXPORT_AGAIN) from None


# What was expected, what was found, and what to do.
_Fault = tuple[str, str, str]
Operators = Mapping[str, frozenset[str]]


def _faults(graph: bytes, operators: Operators) -> Iterator[_Fault]:
    nodes = 0
    for number, value in fields(memoryview(graph)):
        if number == GRAPH:
            for inner, each in fields(_message(value, "graph")):
                if inner == _NODE:
                    nodes += 1
                    yield from _node_faults(_message(each, "node"), operators)
                elif inner == INITIALIZER:
                    yield from _tensor_faults(_message(each, "tensor"))
                elif inner not in _PLAIN["graph"]:
                    yield _unknown("graph", inner)
        elif number == _OPSET:
            yield from _domain_faults(_message(value, "operator set"))
        elif number not in _PLAIN["model"]:
            yield _unknown("model", number)
    if nodes > MAX_NODES:
        yield f"a graph of at most {MAX_NODES} nodes", str(nodes), EXPORT_AGAIN


def _node_faults(node: memoryview, operators: Operators) -> Iterator[_Fault]:
    types, domains = [], []
    for number, value in fields(node):
        if number == _OP_TYPE:
            types.append(_text(value))
        elif number == _DOMAIN:
            domains.append(_text(value))
        elif number == _ATTRIBUTE:
            yield from _attribute_faults(_message(value, "attribute"))
        elif number not in _PLAIN["node"]:
            yield _unknown("node", number)
    domain = domains[0] if domains else ""
    if len(types) != 1 or len(domains) > 1 or types[0] not in operators.get(domain, ()):
        found = " ".join(types) or "a node without an operator"
        yield (
            f"a graph of the operators {_names()}",
            show(f"{domain}.{found}" if domain else found),
            "export a model that needs no other",
        )


def _attribute_faults(attribute: memoryview) -> Iterator[_Fault]:
    name, numbers, floats = "", [], []
    for number, value in fields(attribute):
        if number == _ATTRIBUTE_NAME:
            name = _text(value)
        elif number in (_FLOAT, _FLOATS):
            floats.append(np.frombuffer(_message(value, "attribute"), "<f4"))
        elif number == _INTS:
            numbers += [value] if isinstance(value, int) else varints(value)
        elif number not in (_INT, _TEXT, _TEXTS) and number not in _PLAIN["attribute"]:
            yield _unknown(f"attribute {show(name)}", number)
    if not all(np.isfinite(values).all() for values in floats):
        yield "a graph of finite numbers", f"attribute {show(name)} with another", "train and export again"
    if name == _TREE_OF_A_NODE and numbers:
        tree, size = Counter(numbers).most_common(1)[0]
        if size > MAX_TREE_NODES:
            found = f"{size} in tree {tree}"
            yield f"a graph of trees with at most {MAX_TREE_NODES} nodes", found, "train shallower trees"


def _tensor_faults(message: memoryview) -> Iterator[_Fault]:
    tensor = tensor_of(message)
    if fault := tensor.fault:
        yield (
            "a graph that holds finite numbers for all its tensors",
            f"tensor {show(tensor.name)} {fault}",
            EXPORT_AGAIN,
        )


def _domain_faults(operator_set: memoryview) -> Iterator[_Fault]:
    for number, value in fields(operator_set):
        if number == _DOMAIN_OF_OPSET and (domain := _text(value)) not in OPERATORS:
            yield f"a graph of the operators {_names()}", f"the domain {show(domain)}", EXPORT_AGAIN


def _unknown(what: str, number: int) -> _Fault:
    """A graph inside the graph, a function, a sparse tensor, or anything that ONNX gets in the future."""
    return f"a graph of plain nodes and tensors ({what} without field {number})", "that field", EXPORT_AGAIN


def _names() -> str:
    return ", ".join(sorted(name for names in OPERATORS.values() for name in names))


def _message(value: memoryview | int, what: str) -> memoryview:
    if isinstance(value, int):
        raise ValueError(f"a {what} is a number")
    return value


def _text(value: memoryview | int) -> str:
    return bytes(_message(value, "text")).decode("utf-8", "replace")
