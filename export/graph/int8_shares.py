"""How much of a graph INT8 takes, and why the rest stays float32, read from the INT8 graph itself.

It knows operators and neither models nor training. Nothing here decides what becomes INT8.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from export.graph.editing import Array, GraphEditor, constant_of, is_row_lookup
from export.graph.int8_layers import why_float
from export.graph.quantize import quantize_int8
from export.graph.table_lookups import WORTHWHILE_SHARE

SUMS = "sum.weight"  # `exact_sums` writes sums as products with constants of this name: no weights of a model


@dataclass(frozen=True)
class Int8Share:
    """The share of the numbers that are integers, None where there are none; by reason, others' shapes."""

    share: float | None
    kept: dict[str, list[tuple[int, ...]]]


@dataclass(frozen=True)
class Int8Shares:
    """Of tables that are looked up in, and of the weights of layers."""

    tables: Int8Share
    layers: Int8Share


def int8_shares(graph: bytes, ids: NDArray[np.int32]) -> Int8Shares:
    """What INT8 makes of a float graph of `export_onnx`, calibrated on ids [n, columns]."""
    before, after = GraphEditor.of_bytes(graph), quantize_int8(graph, ids)
    quantized = before if after is None else GraphEditor.of_bytes(after)
    return Int8Shares(
        _share(sum(table.size for table in _tables(before)), _float_tables(quantized)),
        _share(sum(weight.size for _, weight in _weights(before)), _float_layers(quantized)),
    )


def _share(numbers: int, kept: dict[str, list[tuple[int, ...]]]) -> Int8Share:
    left = sum(int(np.prod(shape)) for shapes in kept.values() for shape in shapes)
    return Int8Share(None if numbers == 0 else max(0.0, 1.0 - left / numbers), kept)


def _float_tables(editor: GraphEditor) -> dict[str, list[tuple[int, ...]]]:
    sizes = [table.size for table in _tables(editor, of_any_type=True)]
    kept: dict[str, list[tuple[int, ...]]] = {}
    for table in _tables(editor):
        small = table.size < max(sizes) * WORTHWHILE_SHARE
        reason = (
            f"is smaller than {WORTHWHILE_SHARE:g} of the largest table"
            if small
            else "is read by a logarithm, or in another way than by rows"
        )
        kept.setdefault(reason, []).append(table.shape)
    return kept


def _float_layers(editor: GraphEditor) -> dict[str, list[tuple[int, ...]]]:
    kept: dict[str, list[tuple[int, ...]]] = {}
    for node, weight in _weights(editor):
        reason = why_float(node) or "became no layer of integers"
        kept.setdefault(reason, []).append(weight.shape)
    return kept


def _tables(editor: GraphEditor, *, of_any_type: bool = False) -> Iterator[Array]:
    """The constants that rows are looked up in."""
    for value in editor.graph.initializers.values():
        numbers = constant_of(value)
        if numbers is None or numbers.ndim != 2 or not (of_any_type or numbers.dtype == np.float32):
            continue
        if any(is_row_lookup(node, at) for node, at in value.uses()):
            yield numbers


def _weights(editor: GraphEditor) -> Iterator[tuple[ir.Node, Array]]:
    """The products with constants, but for sums of a row, each constant once."""
    seen = set()
    for node in editor.nodes("Gemm", "MatMul"):
        for value in node.inputs[:2]:
            numbers = constant_of(value)
            if value is None or numbers is None or value in seen or str(value.name).startswith(SUMS):
                continue
            seen.add(value)
            yield node, numbers
