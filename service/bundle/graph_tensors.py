"""Reads the tensors of an ONNX graph from its bytes; it does not know what they are for.

The service must check a graph before it runs, and has no onnx package. A tensor may refer to a file beside
the model: ONNX Runtime, given a model as bytes, reads that file from the working directory (as of 1.31), so a
bundle with correct hashes could still load foreign data. And a single nan weight, in a table row that no
golden row reads, makes every pCTR nan that uses it. Tables are read here so that several graphs, and all
forked processes, share one copy in memory.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_FIXED_SIZES = {_FIXED64: 8, _FIXED32: 4}

# message -> field number -> the message in that field, for the paths that lead to a tensor (onnx.proto).
_MESSAGES: dict[str, dict[int, str]] = {
    "Model": {7: "Graph", 20: "TrainingInfo", 25: "Function"},
    "TrainingInfo": {1: "Graph", 2: "Graph"},
    "Function": {7: "Node", 11: "Attribute"},
    "Graph": {1: "Node", 5: "Tensor", 15: "SparseTensor"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "SparseTensor", 23: "SparseTensor"},
    "SparseTensor": {1: "Tensor", 2: "Tensor"},
    "Tensor": {},
}
# data_type -> the numpy type of a table's raw data.
_TABLE_TYPES = {1: "<f4", 2: "u1", 3: "i1", 10: "<f2"}
# Fields of a tensor. Its numbers are in raw_data or in the field of their type, packed or one by one.
_DIMS, _DATA_TYPE, _FLOAT_DATA, _NAME, _RAW_DATA, _DOUBLE_DATA, _EXTERNAL_DATA, _DATA_LOCATION = (
    1,
    2,
    4,
    8,
    9,
    10,
    13,
    14,
)
_FLOAT_TYPES = {1: "<f4", 10: "<f2", 11: "<f8"}


@dataclass(frozen=True)
class GraphTensor:
    """A tensor of a graph: whether its data is in another file, and whether all its numbers are finite.

    A scalar infinity counts as finite: graphs mask with it. Floats of 16, 32 and 64 bits are checked.
    """

    name: str
    is_external: bool
    is_finite: bool


def tensors_of(graph: bytes) -> Iterator[GraphTensor]:
    """Every tensor of `graph`, at any depth. Raises ValueError for bytes that are not ONNX."""
    return map(_tensor, _messages(graph))


def tables_of(graph: bytes, names: Collection[str]) -> dict[str, NDArray[Any]]:
    """The tensors of these names as read-only copies.

    Raises ValueError if a name has no tensor, or one that is not a table.
    """
    found = {}
    for message in _messages(graph):
        name = next(
            (bytes(v).decode() for n, v in _fields(message) if n == _NAME and not isinstance(v, int)), ""
        )
        if name in names:
            found[name] = _array(name, message)
    for name in names:
        if name not in found:
            raise ValueError(f"no tensor is named {name}")
    return found


def _messages(graph: bytes) -> Iterator[memoryview]:
    """The message of every tensor."""
    # A list instead of recursion, because the file decides how deep messages nest.
    waiting: list[tuple[str, memoryview]] = [("Model", memoryview(graph))]
    while waiting:
        message, data = waiting.pop()
        if message == "Tensor":
            yield data
            continue
        for number, value in _fields(data):
            if number in _MESSAGES[message]:
                if isinstance(value, int):
                    raise ValueError(f"field {number} of {message} is a number")
                waiting.append((_MESSAGES[message][number], value))


def _array(name: str, message: memoryview) -> NDArray[Any]:
    shape: list[int] = []
    dtype, raw = None, None
    for number, value in _fields(message):
        if number == _DIMS and isinstance(value, int):
            shape.append(value)
        elif number == _DIMS and not isinstance(value, int):
            shape += _varints(value)
        elif number == _DATA_TYPE and isinstance(value, int):
            dtype = _TABLE_TYPES.get(value)
        elif number == _RAW_DATA and not isinstance(value, int):
            raw = value
    if dtype is None or raw is None or math.prod(shape) * np.dtype(dtype).itemsize != len(raw):
        raise ValueError(f"tensor {name} is no table of numbers in raw_data")
    table = np.frombuffer(raw, dtype).reshape(shape).copy()  # aligned, and independent of the graph's bytes
    table.flags.writeable = False
    return table


def _tensor(data: memoryview) -> GraphTensor:
    name, is_external, data_type = "", False, 0
    numbers: list[tuple[int, memoryview]] = []
    for number, value in _fields(data):
        if number == _DATA_TYPE and isinstance(value, int):
            data_type = value
        elif number == _DATA_LOCATION:
            is_external = is_external or value != 0
        elif isinstance(value, int):
            continue
        elif number == _NAME:
            name = bytes(value).decode("utf-8", "replace")
        elif number == _EXTERNAL_DATA:
            is_external = True
        elif number in (_RAW_DATA, _FLOAT_DATA, _DOUBLE_DATA):
            numbers.append((number, value))
    types = {_RAW_DATA: _FLOAT_TYPES.get(data_type), _FLOAT_DATA: "<f4", _DOUBLE_DATA: "<f8"}
    is_finite = all(_all_finite(value, types[number]) for number, value in numbers)
    return GraphTensor(name, is_external, is_finite)


def _all_finite(data: memoryview, dtype: str | None) -> bool:
    if dtype is None:
        return True
    size = np.dtype(dtype).itemsize
    if len(data) % size:
        raise ValueError(f"a tensor's data of {len(data)} bytes is no array of {dtype}")
    values = np.frombuffer(data, dtype)
    if len(values) == 1:
        return not np.isnan(values[0])
    return bool(np.isfinite(values).all())


def _fields(data: memoryview) -> Iterator[tuple[int, memoryview | int]]:
    """The fields of one protobuf message: each number with its bytes or its varint."""
    position, end = 0, len(data)
    while position < end:
        tag, position = _varint(data, position)
        number, kind = tag >> 3, tag & 7
        if kind == _VARINT:
            value, position = _varint(data, position)
            yield number, value
            continue
        if kind == _BYTES:
            size, position = _varint(data, position)
        elif kind in _FIXED_SIZES:
            size = _FIXED_SIZES[kind]
        else:
            raise ValueError(f"wire type {kind} at byte {position}")
        if position + size > end:
            raise ValueError(f"field {number} ends after the message, at byte {position}")
        yield number, data[position : position + size]
        position += size


def _varints(data: memoryview) -> list[int]:
    values, position = [], 0
    while position < len(data):
        value, position = _varint(data, position)
        values.append(value)
    return values


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    value, shift = 0, 0
    while position < len(data) and shift < 70:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
    raise ValueError(f"a number that does not end, at byte {position}")
