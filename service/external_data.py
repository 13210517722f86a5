"""Finds in the bytes of an ONNX graph a tensor that would be read from a file; knows only where tensors are.

A tensor may say that its data lies in a file beside the model. ONNX Runtime, given a model as bytes, reads
such a file from the working directory (seen with 1.31), so that a bundle whose every hash is right could
still feed whatever lies there into the model. The onnx package, which could tell, is not installed where we
serve.
"""

from __future__ import annotations

from collections.abc import Iterator

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_FIXED_SIZES = {_FIXED64: 8, _FIXED32: 4}

# message -> field number -> the message that the field holds; only the ways to a tensor (onnx.proto).
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
_TENSOR_NAME, _TENSOR_EXTERNAL_DATA, _TENSOR_DATA_LOCATION = 8, 13, 14


def find_external_tensor(graph: bytes) -> str | None:
    """The name of a tensor of `graph` whose data lies in a file, or None; raises ValueError if not ONNX."""
    # A list, not recursion: how deep the messages nest is up to whoever wrote the file.
    waiting: list[tuple[str, memoryview]] = [("Model", memoryview(graph))]
    while waiting:
        message, data = waiting.pop()
        name, external = "", False
        for number, value in _fields(data):
            if message == "Tensor":
                external = external or number == _TENSOR_EXTERNAL_DATA
                external = external or (number == _TENSOR_DATA_LOCATION and value != 0)
                if number == _TENSOR_NAME and not isinstance(value, int):
                    name = bytes(value).decode("utf-8", "replace")
            elif number in _MESSAGES[message]:
                if isinstance(value, int):
                    raise ValueError(f"field {number} of {message} is a number")
                waiting.append((_MESSAGES[message][number], value))
        if external:
            return name
    return None


def _fields(data: memoryview) -> Iterator[tuple[int, memoryview | int]]:
    """The fields of one protobuf message: number, and the bytes or the varint it holds."""
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
