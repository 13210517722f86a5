"""An INT8 graph as a PyTorch module that can be trained: the same integers, the same rounding, and gradients.

It knows operators and how ONNX Runtime joins those of INT8 layers, not models, logs or losses.

- A table's rows and a layer's weights and biases are floats that are rounded at each use, to the integers
  that the graph would hold; scales and zero points are the graph's and do not change.
- What is rounded passes its gradient on as it is (the straight-through estimator of Bengio et al.,
  "Estimating or Propagating Gradients Through Stochastic Neurons for Conditional Computation", 2013), an
  activation's unless it lies beyond the range. Zeros get none: what was pruned stays pruned.
- A layer of INT8 inputs and weights adds up integers, exactly in evaluation mode. ONNX Runtime multiplies the
  sum by both scales; where nothing but another quantization reads it, by both scales over that one's step,
  and rounds once. Halves round to even.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from torch import Tensor, nn

from export.errors import ExportError
from export.graph.int8_layers import LARGEST_BIAS, WEIGHT_LIMIT
from export.graph.int8_steps import ACTIVATION_LIMIT
from export.graph.onnx import serialize
from export.graph.row_codes import CODE_LIMIT, ZERO_POINT
from export.graph.torch_operators import OPERATORS
from export.graph.unrounded import Unrounded

# Biases are trained in units of the product of a large weight and a large input, as weights in their limit.
BIAS_UNIT = WEIGHT_LIMIT * 128


@dataclass(frozen=True)
class Scaled:
    """Whole numbers, kept as floats, and the scale that they are not multiplied by yet."""

    numbers: Tensor
    scale: Tensor

    def floats(self) -> Tensor:
        return self.numbers.float() * self.scale


Value = Tensor | Scaled


class TorchGraph(nn.Module):
    """The function ids [batch, columns] -> logits [batch] of an INT8 graph, trainable where it is INT8.

    `unrounded` holds what the integers that may be trained were rounded from. Tables are trained in their own
    unit, so that step size and penalty mean what they meant in the model's training; weights as a share of
    their output's largest one. Raises ExportError for an operator that `torch_operators` lacks.
    """

    fields = ()  # it has no tables by field: what training never looks up is as the model left it

    def __init__(self, graph: bytes, unrounded: Unrounded) -> None:
        super().__init__()
        self._proto = onnx.load_model_from_string(graph)
        self._tables, self._layers = nn.ModuleDict(), nn.ParameterDict()
        self._with_zeros: set[str] = set()  # weights of which some were pruned
        self._place: dict[str, str] = {}  # of a constant: its name here, which may have no dots
        for number, tensor in enumerate(self._proto.graph.initializer):
            self._place[tensor.name] = f"c{number}"
            self._read(tensor, f"c{number}", unrounded)
        self._nodes = [_Step.of(node) for node in self._proto.graph.node]
        self._uses: dict[str, int] = {}
        for name in (name for step in self._nodes for name in step.inputs):
            self._uses[name] = self._uses.get(name, 0) + 1
        self._input, self._output = self._proto.graph.input[0].name, self._proto.graph.output[0].name
        self._uses[self._output] = self._uses.get(self._output, 0) + 1  # who calls reads it

    def _read(self, tensor: onnx.TensorProto, place: str, unrounded: Unrounded) -> None:
        if tensor.name in unrounded.tables:
            rows, factors = unrounded.tables[tensor.name]
            self._tables[place] = _Table(rows, factors)
        elif tensor.name in unrounded.layers:
            numbers = torch.from_numpy(np.array(unrounded.layers[tensor.name], np.float32))
            self._layers[place] = nn.Parameter(numbers / _unit(numbers))
            if numbers.ndim == 2 and bool((numbers == 0).any()):
                self._with_zeros.add(place)
        else:
            values = torch.from_numpy(np.array(numpy_helper.to_array(tensor)))
            self.register_buffer(place, values, persistent=False)

    @property
    def is_trainable(self) -> bool:
        return next(self.parameters(), None) is not None

    def forward(self, ids: Tensor) -> Tensor:
        """ids [batch, columns] -> logits [batch]."""
        found = self._computed(ids, keeps_all=False)[self._output]
        return found.floats() if isinstance(found, Scaled) else found

    def values(self, ids: Tensor) -> dict[str, Value]:
        """Every value of the graph for these ids, by name."""
        return self._computed(ids, keeps_all=True)

    def _computed(self, ids: Tensor, *, keeps_all: bool) -> dict[str, Value]:
        """Values by name; a value that nothing reads any more is dropped, unless all are kept."""
        values: dict[str, Value] = {self._input: ids}
        unread = dict(self._uses)
        for step in self._nodes:
            inputs = [self._value(name, values) for name in step.inputs]
            values |= zip(step.outputs, self._run(step, inputs), strict=True)
            for name in step.inputs:
                unread[name] -= 1
                if not unread[name] and not keeps_all:
                    values.pop(name, None)
        return values

    def graph(self) -> bytes:
        """The INT8 graph with the integers as they are trained now."""
        proto = onnx.ModelProto()
        proto.CopyFrom(self._proto)
        with torch.no_grad():
            for tensor in proto.graph.initializer:
                place = self._place[tensor.name]
                trained = self._trained(place)
                if trained is not None:
                    dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
                    values = trained.cpu().numpy().astype(dtype)
                    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
        return serialize(proto)

    def _value(self, name: str, values: Mapping[str, Value]) -> Value | None:
        if not name or name in values:
            return values.get(name)
        place = self._place[name]
        if place in self._layers:
            return _integers(self._layers[place], keeps_zeros=place in self._with_zeros)
        if place in self._tables:
            return None
        constant: Tensor = getattr(self, place)
        return constant

    def _trained(self, place: str) -> Tensor | None:
        """The integers of a constant that is trained, as the graph holds them."""
        if place in self._layers:
            return _integers(self._layers[place])
        if place in self._tables:
            table: Any = self._tables[place]
            codes: Tensor = table.codes(table.rows.weight, table.factors)
            return codes
        return None

    def _run(self, step: _Step, inputs: list[Any]) -> tuple[Value, ...]:
        if step.operator == "Gather" and (table := self._table(step.inputs[0])) is not None:
            return (table(inputs[1]),)
        if step.operator == "DequantizeLinear":
            return (_dequantized(*inputs),)
        if step.operator == "QuantizeLinear":
            is_joined = self._uses[step.inputs[0]] == 1
            return (_quantized(*inputs, is_joined=is_joined),)
        if step.is_int8_layer and all(isinstance(value, Scaled) for value in inputs):
            return (_sums(inputs, exact=not self.training),)
        if step.operator == "Relu" and isinstance(inputs[0], Scaled):
            return (Scaled(inputs[0].numbers.clamp(min=0), inputs[0].scale),)
        floats = [value.floats() if isinstance(value, Scaled) else value for value in inputs]
        found = OPERATORS[step.operator](step.attributes, *floats)
        return found if isinstance(found, tuple) else (found,)

    def _table(self, name: str) -> _Table | None:
        place = self._place.get(name)
        if place is None or place not in self._tables:
            return None
        table: Any = self._tables[place]
        found: _Table = table
        return found


@dataclass(frozen=True)
class _Step:
    """A node."""

    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]

    @classmethod
    def of(cls, node: onnx.NodeProto) -> _Step:
        if node.domain not in ("", "ai.onnx") or node.op_type not in {*OPERATORS, *_OF_INTEGERS}:
            raise ExportError(
                f"'operator' must be one of {', '.join(sorted(OPERATORS))} to be trained "
                f"(got {node.op_type!r}); take --quantization static"
            )
        attributes = {one.name: helper.get_attribute_value(one) for one in node.attribute}
        return cls(node.op_type, tuple(node.input), tuple(node.output), attributes)

    @property
    def is_int8_layer(self) -> bool:
        """Whether it has the form of `int8_layers`, with biases and a row of weights for each output."""
        return self.operator == "Gemm" and len(self.inputs) == 3 and bool(self.attributes.get("transB"))


_OF_INTEGERS = ("QuantizeLinear", "DequantizeLinear")


class _Table(nn.Module):
    """Rows that are looked up and rounded to codes."""

    factors: Tensor

    def __init__(self, rows: Any, factors: Any) -> None:
        super().__init__()
        weights = torch.from_numpy(np.array(rows, np.float32))
        self.rows = nn.Embedding(len(weights), weights.shape[1], _weight=weights)
        self.register_buffer("factors", torch.from_numpy(np.array(factors, np.float32)), persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        ids = ids % len(self.factors)
        return self.codes(self.rows(ids), self.factors[ids])

    @staticmethod
    def codes(rows: Tensor, factors: Tensor) -> Tensor:
        """rows [.., dim] and factors [..] -> codes with their zero point."""
        numbers = rows * (rows != 0) * factors[..., None]  # zeros get no gradient
        return _rounded(numbers, -CODE_LIMIT, CODE_LIMIT) + ZERO_POINT


def _unit(numbers: Tensor) -> float:
    """What weights [out, in], or biases [out], are divided by in training."""
    return WEIGHT_LIMIT if numbers.ndim == 2 else BIAS_UNIT


def _integers(trained: Tensor, *, keeps_zeros: bool = False) -> Tensor:
    """Weights [out, in] or biases [out], as they are trained -> integers."""
    limit = WEIGHT_LIMIT if trained.ndim == 2 else LARGEST_BIAS
    found: Tensor = _Integers.apply(  # type: ignore[no-untyped-call]
        trained, _unit(trained), limit, keeps_zeros
    )
    return found


def _dequantized(*inputs: Any) -> Scaled:
    """Integers [n, ..] of the first axis' scales, or of one scale."""
    codes, scale, zero_point = inputs
    numbers = codes.to(torch.float32)
    if zero_point.any():
        numbers = numbers - zero_point.to(torch.float32).reshape(-1, *[1] * (codes.ndim - 1))
    return Scaled(numbers, scale)


def _quantized(value: Value, step: Tensor, zero_point: Tensor, *, is_joined: bool) -> Tensor:
    """Codes of a value; `is_joined` where nothing else reads it."""
    low = -float(zero_point)
    if isinstance(value, Scaled) and is_joined:
        return _rounded(value.numbers.float() * (value.scale / step), low, ACTIVATION_LIMIT + low) - low
    floats = value.floats() if isinstance(value, Scaled) else value
    return _rounded(floats / step, low, ACTIVATION_LIMIT + low) - low


def _sums(inputs: list[Any], *, exact: bool) -> Scaled:
    """rows [n, in] and weights [out, in] and biases [out] -> [n, out], of a layer with transB."""
    rows, weights, biases = inputs
    dtype = torch.float64 if exact else torch.float32
    numbers = torch.addmm(biases.numbers.to(dtype), rows.numbers.to(dtype), weights.numbers.to(dtype).T)
    return Scaled(numbers, rows.scale * weights.scale)


def _rounded(numbers: Tensor, low: float, high: float) -> Tensor:
    found: Tensor = _Round.apply(numbers, low, high)  # type: ignore[no-untyped-call]
    return found


class _Round(torch.autograd.Function):
    """To the nearest integers from low to high, halves to even; the gradient passes where it is in range."""

    @staticmethod
    def forward(context: Any, numbers: Tensor, low: float, high: float) -> Tensor:
        rounded = numbers.round()
        context.save_for_backward((rounded >= low) & (rounded <= high))
        return rounded.clamp(low, high)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (in_range,) = context.saved_tensors
        return gradient * in_range, None, None


class _Integers(torch.autograd.Function):
    """Weights times their unit, to the nearest integers; only zeros that are kept get no gradient.

    One function, since a small batch takes longer to pass over the weights than to multiply by them. The
    largest weight of an output lies on the limit from the start, and must be able to come back from beyond.
    """

    @staticmethod
    def forward(context: Any, trained: Tensor, unit: float, limit: float, keeps_zeros: bool) -> Tensor:
        context.save_for_backward(trained)
        context.unit, context.keeps_zeros = unit, keeps_zeros
        return trained.mul(unit).round_().clamp_(-limit, limit)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        (trained,) = context.saved_tensors
        given = gradient * context.unit
        if context.keeps_zeros:
            given.masked_fill_(trained == 0, 0.0)
        return given, None, None, None
