"""Numbers of a table's row as codes of 2, 4 or 8 bits, several of them a byte, and the nodes that read them.

It knows neither fields nor why a row has its width.

A code stands in the upper bits of a byte around the zero point 128, whatever its width: codes of 4 bits are
multiples of 16, of 2 bits of 64. So layers read all widths alike, and only scales differ. Packed, a byte
holds the codes of columns that lie a part of the row apart: at 4 bits its upper half is column j, its lower
half column j + n of 2 n. A shift and a mask give each part of the row back, with the same bits on every
machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx_ir as ir

from export.graph.editing import Array, GraphEditor

ZERO_POINT: Final = 128
CODE_LIMIT: Final = 127  # codes lie in ZERO_POINT +- CODE_LIMIT
SMALLEST_SCALE = np.finfo(np.float32).tiny  # the reciprocal of a smaller scale overflows
WIDTHS: Final = (8, 4, 2)
"""Bits of a code, the widest first."""


@dataclass(frozen=True)
class Form:
    """How rows are written: `bits` a code, and the value of 1 beyond the zero point."""

    bits: int
    scale: np.float32

    @property
    def step(self) -> int:
        """Codes are multiples of it, from the zero point on."""
        return 1 << (8 - self.bits)

    @property
    def limit(self) -> int:
        """The largest code, in steps; symmetric, so that zero has a code of its own."""
        return (1 << (self.bits - 1)) - 1

    @property
    def factor(self) -> np.float32:
        """What a number is multiplied by to become a code, before it is rounded."""
        return np.float32(0.0 if self.scale == 0.0 else np.float32(1.0) / self.scale)


def form_of(largest: float, bits: int) -> Form:
    """The form of rows whose largest |number| gets the largest code.

    Rows of zeros get the scale 0: any other would make them the largest input of the first layer, whose
    weights share one scale for each output.
    """
    empty = Form(bits, np.float32(0.0))
    scale = np.float32(np.float32(largest) / np.float32(empty.limit * empty.step))
    return empty if scale < SMALLEST_SCALE else Form(bits, scale)


def codes_of(values: Array, form: Form) -> Array:
    """The nearest codes of float32 numbers, uint8; numbers beyond the largest code get that."""
    steps = np.clip(np.round(values * form.factor / np.float32(form.step)), -form.limit, form.limit)
    codes: Array = (steps * form.step + ZERO_POINT).astype(np.uint8)
    return codes


def decoded(codes: Array, form: Form) -> Array:
    """The numbers that codes stand for, float32."""
    numbers: Array = (codes.astype(np.float32) - ZERO_POINT) * form.scale
    return numbers


def row_bytes(columns: int, bits: int) -> int:
    """The bytes of a packed row of so many codes."""
    return -(-columns * bits // 8)


def pack(codes: Array, bits: int) -> Array:
    """Codes [rows, columns] of one width -> bytes [rows, row_bytes]."""
    parts, size = 8 // bits, row_bytes(codes.shape[1], bits)
    whole = np.full((len(codes), parts * size), ZERO_POINT, np.uint8)
    whole[:, : codes.shape[1]] = codes
    packed: Array = np.zeros((len(codes), size), np.uint8)
    for part in range(parts):
        packed |= whole[:, part * size : (part + 1) * size] >> (bits * part)
    return packed


def unpack(
    editor: GraphEditor, before: ir.Node, packed: ir.Value, row_shape: tuple[int, ...], bits: int
) -> ir.Value:
    """Inserts nodes that give the codes [batch, *row_shape] of packed rows, which lie along the last axis."""
    if bits == 8:
        return packed
    *lead, columns = row_shape
    size, axis = row_bytes(columns, bits), len(row_shape)
    mask = editor.constant(np.array(0xFF << (8 - bits) & 0xFF, np.uint8), "codes.mask")
    parts = []
    for part in range(-(-columns // size)):
        codes, shape = packed, (*lead, size)
        if part:
            places = editor.constant(np.array(bits * part, np.uint8), "codes.places")
            codes = editor.put(
                before, "BitShift", [codes, places], shape, ir.DataType.UINT8, direction="LEFT"
            )
        if bits * (part + 1) < 8:
            codes = editor.put(before, "BitwiseAnd", [codes, mask], shape, ir.DataType.UINT8)
        parts.append(codes)
    whole = (*lead, len(parts) * size)
    joined = editor.put(before, "Concat", parts, whole, ir.DataType.UINT8, axis=axis)
    if whole == row_shape:
        return joined
    cut = [editor.constant(np.array([number], np.int64), "cut") for number in (0, columns, axis)]
    return editor.put(before, "Slice", [joined, *cut], row_shape, ir.DataType.UINT8)
