"""Reads the tensors of an ONNX graph from its bytes; it does not know what they are for.

The service must check a graph before it runs, and has no onnx package. Tables are read here so that several
graphs, and all forked processes, share one copy in memory.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.bundle.bounds import MAX_DIMENSIONS
from service.bundle.errors import show
from service.bundle.protobuf import fields, varints

# Fields of Model, Graph and Tensor (onnx.proto) that lead to the initializers and their numbers.
GRAPH, INITIALIZER = 7, 5
_DIMS, _DATA_TYPE, _NAME, _RAW_DATA, _EXTERNAL_DATA, _DATA_LOCATION = 1, 2, 8, 9, 13, 14
# data_type -> its numpy type.
_TYPES = dict(
    zip(
        (1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13),
        ("<f4", "u1", "i1", "<u2", "<i2", "<i4", "<i8", "?", "<f2", "<f8", "<u4", "<u8"),
        strict=True,
    )
)
_TABLE_TYPES = ("<f4", "u1", "i1", "<f2")
# A tensor's numbers are in raw_data, or in the field of their type: floats of that size, or varints (None).
_TYPED_DATA = {4: "<f4", 5: None, 7: None, 10: "<f8", 11: None}


@dataclass(frozen=True)
class GraphTensor:
    """An initializer: its numbers are in `raw`, an array of `dtype`, or `typed`, in fields of their types.

    `dtype` is None for a type that no graph of a bundle has, such as text. `is_external` says that the data
    is in another file.
    """

    name: str
    dtype: str | None
    shape: tuple[int, ...]
    is_external: bool
    raw: memoryview | None
    typed: tuple[tuple[int, memoryview | int], ...]

    @property
    def fault(self) -> str:
        """Why a graph must not have this tensor, in words; empty if it may.

        It has one number for each place of its shape, so that its size in memory is bounded by the file's,
        and all are finite. A scalar infinity counts as finite: graphs mask with it.
        """
        if self.is_external:
            # ONNX Runtime, given a model as bytes, reads the file from the working directory (as of 1.31).
            return "in a file of its own"
        if self.dtype is None:
            return "of a type that no bundle has"
        expected, found = math.prod(self.shape), self._count()
        if len(self.shape) > MAX_DIMENSIONS or expected != found:
            return f"of {found} numbers in the shape {show(list(self.shape))}"
        return "" if self._is_finite() else "with nan or infinite numbers"

    def _count(self) -> int:
        if self.raw is not None:
            size = np.dtype(self.dtype).itemsize
            return -1 if len(self.raw) % size else len(self.raw) // size
        return sum(_count_typed(number, value) for number, value in self.typed)

    def _is_finite(self) -> bool:
        arrays = [np.frombuffer(self.raw, self.dtype)] if self.raw is not None else []
        arrays += [
            np.frombuffer(value, dtype)
            for number, value in self.typed
            if (dtype := _TYPED_DATA[number]) is not None and not isinstance(value, int)
        ]
        floats = [values for values in arrays if values.dtype.kind == "f"]
        if sum(map(len, floats)) == 1:
            return not any(np.isnan(values).any() for values in floats)
        return all(bool(np.isfinite(values).all()) for values in floats)


def tensor_of(message: memoryview) -> GraphTensor:
    """The tensor of one message. Raises ValueError for bytes that are none."""
    name, data_type, is_external = "", 0, False
    shape: list[int] = []
    raw: memoryview | None = None
    typed: list[tuple[int, memoryview | int]] = []
    for number, value in fields(message):
        if number == _DIMS:
            shape += [value] if isinstance(value, int) else varints(value)
        elif number == _DATA_TYPE and isinstance(value, int):
            data_type = value
        elif number == _DATA_LOCATION:
            is_external = is_external or value != 0
        elif number == _EXTERNAL_DATA:
            is_external = True
        elif number in _TYPED_DATA:
            typed.append((number, value))
        elif number == _NAME and not isinstance(value, int):
            name = bytes(value).decode("utf-8", "replace")
        elif number == _RAW_DATA and not isinstance(value, int):
            if raw is not None:
                raise ValueError(f"tensor {show(name)} has raw_data twice")
            raw = value
    return GraphTensor(name, _TYPES.get(data_type), tuple(shape), is_external, raw, tuple(typed))


def tables_of(graph: bytes, names: Collection[str]) -> dict[str, NDArray[Any]]:
    """The initializers of these names as read-only copies.

    Raises ValueError if a name has no initializer, or one that is not a table.
    """
    found = {}
    for message in _initializers(graph):
        tensor = tensor_of(message)
        if tensor.name in names:
            found[tensor.name] = _array(tensor)
    for name in names:
        if name not in found:
            raise ValueError(f"no tensor is named {name}")
    return found


def _initializers(graph: bytes) -> Iterator[memoryview]:
    for number, value in fields(memoryview(graph)):
        if number == GRAPH and not isinstance(value, int):
            yield from (
                each for inner, each in fields(value) if inner == INITIALIZER and not isinstance(each, int)
            )


def _array(tensor: GraphTensor) -> NDArray[Any]:
    size = 0 if tensor.dtype is None else math.prod(tensor.shape) * np.dtype(tensor.dtype).itemsize
    if tensor.dtype not in _TABLE_TYPES or tensor.raw is None or size != len(tensor.raw):
        raise ValueError(f"tensor {tensor.name} is no table of numbers in raw_data")
    # Aligned, and independent of the graph's bytes.
    table = np.frombuffer(tensor.raw, tensor.dtype).reshape(tensor.shape).copy()
    table.flags.writeable = False
    return table


def _count_typed(number: int, value: memoryview | int) -> int:
    """How many numbers one field holds: it is packed, or there is one of them for each number."""
    if isinstance(value, int):
        return 1
    dtype = _TYPED_DATA[number]
    if dtype is None:
        return int(np.count_nonzero(np.frombuffer(value, np.uint8) < 0x80))
    return len(value) // np.dtype(dtype).itemsize
