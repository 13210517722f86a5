"""Reads and rewrites a graph: constants, shapes, new nodes. It knows ONNX, not what a graph is for.

The first axis of a value that depends on ids is the batch. All other axes have fixed sizes, which makes exact
rewriting possible. `row_shape` is a value's shape without the batch.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator
from onnx_ir.passes import common

OPSET = 20
BATCH = "batch"
LARGEST_FOLDED = 2**24  # elements; a constant larger than its sources is not worth its bytes

Array = NDArray[Any]


class GraphEditor:
    """A graph being edited. New nodes and constants get numbered names, so equal edits give equal bytes."""

    def __init__(self, model: ir.Model) -> None:
        self.model = model
        self.graph = model.graph
        self._names = {value.name for value in self.graph.initializers.values()}
        self._names |= {output.name for node in self.graph for output in node.outputs}
        self._names |= {node.name for node in self.graph}  # may differ: an output of the graph was renamed
        self._constants: dict[tuple[str, tuple[int, ...], bytes], ir.Value] = {}

    @classmethod
    def of_bytes(cls, content: bytes) -> GraphEditor:
        """Reads a graph and infers the shapes of its values."""
        proto = onnx.load_model_from_string(content)
        return cls(ir.from_proto(onnx.shape_inference.infer_shapes(proto, data_prop=True)))

    def proto(self) -> onnx.ModelProto:
        """The graph in its present form, without unused nodes."""
        self.sweep()
        return ir.to_proto(self.model)

    def nodes(self, *operators: str) -> list[ir.Node]:
        """The nodes of these operators, or all, in execution order; safe to iterate over while editing."""
        return [node for node in self.graph if not operators or is_a(node, *operators)]

    def constant(self, values: Array, name: str) -> ir.Value:
        """A constant of the graph; equal values share one. `name` is the stem of its name."""
        values = np.ascontiguousarray(values) if values.ndim else values
        key = (values.dtype.str, values.shape, hashlib.sha256(values.tobytes()).digest())
        if key not in self._constants:
            value = ir.val(self._new_name(name), const_value=ir.tensor(values))
            value.shape, value.dtype = ir.Shape(values.shape), ir.DataType.from_numpy(values.dtype)
            self.graph.register_initializer(value)
            self._constants[key] = value
        return self._constants[key]

    def put(
        self,
        before: ir.Node,
        operator: str,
        inputs: Sequence[ir.Value | None],
        row_shape: Sequence[int],
        dtype: ir.DataType = ir.DataType.FLOAT,
        **attributes: Any,
    ) -> ir.Value:
        """Inserts a node in front of another and returns its output, of shape [batch, *row_shape]."""
        node = ir.node(operator, inputs, attributes or None)
        node.name = node.outputs[0].name = self._new_name(operator)
        node.outputs[0].shape, node.outputs[0].dtype = ir.Shape([BATCH, *row_shape]), dtype
        self.graph.insert_before(before, node)
        return node.outputs[0]

    def put_dynamically_quantized(self, before: ir.Node, value: ir.Value) -> tuple[ir.Value, ...]:
        """Inserts a DynamicQuantizeLinear; returns the codes, and the scale and zero point of the batch."""
        node = ir.node("DynamicQuantizeLinear", [value], num_outputs=3)
        node.name = self._new_name("DynamicQuantizeLinear")
        types = (ir.DataType.UINT8, ir.DataType.FLOAT, ir.DataType.UINT8)
        for output, dtype in zip(node.outputs, types, strict=True):
            output.name = self._new_name("DynamicQuantizeLinear")
            output.shape, output.dtype = ir.Shape([]), dtype
        node.outputs[0].shape = value.shape
        self.graph.insert_before(before, node)
        return tuple(node.outputs)

    def put_shaped(
        self,
        before: ir.Node,
        operator: str,
        inputs: Sequence[ir.Value | None],
        shape: Sequence[Any],
        **attributes: Any,
    ) -> ir.Value:
        """As `put`, for a float value with the batch on another axis or without a batch."""
        value = self.put(before, operator, inputs, (), **attributes)
        value.shape = ir.Shape(shape)
        return value

    def copy(self, node: ir.Node, inputs: Sequence[ir.Value | None]) -> list[ir.Value]:
        """Inserts the same node with other inputs in front of it; output types and shapes stay the same."""
        attributes = attributes_of(node, {})
        twin = ir.node(
            node.op_type, inputs, attributes or None, domain=node.domain, num_outputs=len(node.outputs)
        )
        twin.name = self._new_name(node.op_type)
        for output, of_node in zip(twin.outputs, node.outputs, strict=True):
            output.name = self._new_name(node.op_type)
            output.shape, output.type = of_node.shape, of_node.type
        self.graph.insert_before(node, twin)
        return list(twin.outputs)

    def reshape(self, before: ir.Node, value: ir.Value, row_shape: Sequence[int]) -> ir.Value:
        """`value` as [batch, *row_shape]; unchanged if it has that shape."""
        if row_shape_of(value) == tuple(row_shape):
            return value
        shape = self.constant(np.array([-1, *row_shape], np.int64), "shape")
        return self.put(before, "Reshape", [value, shape], row_shape, value.dtype or ir.DataType.FLOAT)

    def replace(self, old: ir.Value, new: ir.Value) -> None:
        """Replaces `old` by `new` in all nodes and in the graph's outputs."""
        if any(output is old for output in self.graph.outputs):
            # The output's name is part of the contract, so `new` takes it over.
            name, type_, shape = old.name, old.type, old.shape
            old.name = self._new_name(f"{name}.before")
            self.graph.outputs[:] = [new if output is old else output for output in self.graph.outputs]
            new.name, new.type, new.shape = name, type_, shape
        old.replace_all_uses_with(new)

    def replace_input(self, node: ir.Node, old: ir.Value, new: ir.Value) -> None:
        """Replaces `old` by `new` in the inputs of one node."""
        for position, value in enumerate(node.inputs):
            if value is old:
                node.replace_input_with(position, new)

    def sweep(self) -> None:
        """Removes unused nodes and constants, and values computed twice."""
        for clean in (
            common.DeduplicateInitializersPass(),
            common.CommonSubexpressionEliminationPass(),
            common.IdentityEliminationPass(),
            common.RemoveUnusedNodesPass(),
        ):
            clean(self.model)
        self._constants.clear()  # some may be removed

    def fold_constants(self) -> None:
        """Replaces nodes whose inputs are all constants by their values."""
        for node in self.nodes():
            values = [constant_of(value) for value in node.inputs if value is not None]
            inputs = [value for value in values if value is not None]
            if len(inputs) < len(values) or (not inputs and node.op_type != "Constant"):
                continue
            outputs = evaluate(node, inputs)
            if sum(map(np.size, outputs)) > max(LARGEST_FOLDED, *map(np.size, inputs), 0):
                continue
            for output, values_of in zip(node.outputs, outputs, strict=True):
                if not any(value is output for value in self.graph.outputs):
                    self.replace(output, self.constant(np.asarray(values_of), output.name or "constant"))

    def _new_name(self, stem: str) -> str:
        name, number = stem, 1
        while name in self._names:
            name, number = f"{stem}_{number}", number + 1
        self._names.add(name)
        return name


def is_a(node: ir.Node | None, *operators: str) -> bool:
    """Whether a node is one of these operators of plain ONNX."""
    return node is not None and node.domain in ("", "ai.onnx") and node.op_type in operators


def is_row_lookup(node: ir.Node, at: int) -> bool:
    """Whether a node looks rows up in its input number `at`."""
    return is_a(node, "Gather") and at == 0 and int(attributes_of(node, {"axis": 0})["axis"]) == 0


def constant_of(value: ir.Value | None) -> Array | None:
    """The array of a constant; None for a computed value."""
    if value is None or value.const_value is None or value.producer() is not None:
        return None
    return value.const_value.numpy()


def row_shape_of(value: ir.Value | None) -> tuple[int, ...] | None:
    """The sizes of a value's axes after the batch; None if it has no batch or a size is unknown."""
    if value is None or value.shape is None or len(value.shape) == 0 or isinstance(value.shape[0], int):
        return None
    sizes = tuple(value.shape)[1:]
    return tuple(size for size in sizes if isinstance(size, int)) if _all_known(sizes) else None


def evaluate(node: ir.Node, inputs: Iterable[Array]) -> list[Array]:
    """A node's outputs for these arrays, given in the order of its present inputs."""
    proto = ir.to_proto(node)
    given = dict(zip([name for name in proto.input if name], inputs, strict=False))
    return list(ReferenceEvaluator(proto, opsets={"": OPSET}).run(None, given))


def attributes_of(node: ir.Node, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """A node's attributes, with defaults for those it omits."""
    return {**defaults, **{name: attribute.value for name, attribute in node.attributes.items()}}


def axes_of(node: ir.Node, rank: int) -> tuple[int, ...] | None:
    """The axes of a reduction, Squeeze or Unsqueeze, sorted and not negative; None if unknown."""
    axes = constant_of(node.inputs[1]) if len(node.inputs) > 1 else None
    return None if axes is None else tuple(sorted(int(axis) % rank for axis in axes.ravel()))


def through_reshapes(value: ir.Value) -> Iterator[ir.Value]:
    """The value, then what each Reshape behind it shapes, the last one's first."""
    source: ir.Value | None = value
    while source is not None:
        yield source
        node = source.producer()
        source = node.inputs[0] if node is not None and is_a(node, "Reshape") else None


def before_reshapes(value: ir.Value) -> ir.Value:
    """What Reshapes, if any, make the value of, with as many lines as the value has."""
    size, found = size_of(row_shape_of(value) or ()), value
    for source in through_reshapes(value):
        shape = row_shape_of(source)
        if shape is None:
            break
        if size_of(shape) == size:
            found = source
    return found


def producer_behind_reshapes(value: ir.Value | None) -> ir.Node | None:
    """The node that computes a value, before any Reshapes."""
    return None if value is None else [*through_reshapes(value)][-1].producer()


def size_of(row_shape: Iterable[int]) -> int:
    """The number of elements in a row of this shape."""
    return math.prod(row_shape)


def _all_known(sizes: Iterable[object]) -> bool:
    return all(isinstance(size, int) for size in sizes)
