"""Turns a float graph into a static INT8 graph: the embedding tables and the linear layers.

It knows operators, not models, schemas or training. `parity` measures the loss.

What is INT8 and how:

- Tables: uint8 codes around 128 with one scale a field. The codes pass through the graph; a field's scale is
  folded into every weight that multiplies the field (`int8_tables`). So a layer that follows the lookup reads
  the codes without another quantization.
- Layers: int8 weights with a scale for each output, uint8 activations with a range found on training rows
  (QDQ; ONNX Runtime fuses a layer into one QGemm, `int8_layers`). Small layers, FwFM's matrix and layers with
  one output stay float32, because INT8 gains nothing there.
- Activation ranges are the largest value seen plus a quarter. Percentiles lose more: activations have long
  tails.
- Weights take 7 bits. A CPU without VNNI multiplies u8 x s8 by adding pairs of products in 16 bits, which
  8-bit weights saturate, and the logits change silently. 2 * 255 * 64 fits in 16 bits, so all CPUs give the
  same bits. u8 x u8, the alternative, is slower.

docs/measured-training.md has the figures.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from export.errors import ExportError
from export.graph.editing import GraphEditor
from export.graph.int8_layers import quantize_layers
from export.graph.int8_tables import quantize_tables
from export.graph.onnx import serialize
from export.graph.unrounded import Unrounded

CALIBRATION_ROWS = 16_384  # more rows change no range and take memory


def quantize_int8(
    graph: bytes, calibration_ids: NDArray[np.int32], unrounded: Unrounded | None = None
) -> bytes | None:
    """The INT8 graph of a float graph of `export_onnx`, calibrated on ids [n, columns] of the training part.

    Returns None if nothing in it can be INT8: trees have neither tables nor layers. `unrounded` gets what its
    integers were rounded from. Raises ExportError if there are no rows.
    """
    if len(calibration_ids) == 0:
        raise ExportError("'calibration_ids' must hold at least one row (got 0); calibrate on training rows")
    rows = calibration_ids[:: -(-len(calibration_ids) // CALIBRATION_ROWS)]
    editor = GraphEditor.of_bytes(graph)
    codes = quantize_tables(editor, unrounded)
    layers = quantize_layers(editor, codes, rows, unrounded)
    return serialize(editor.proto()) if codes or layers else None


def quantize_dynamic(graph: bytes) -> bytes | None:
    """The INT8 graph of a float graph that finds the ranges of its layers' inputs in each batch.

    A row's logit depends on the other rows of its batch. Tables, and layers that read their codes, are those
    of `quantize_int8`, and so is the number of bits. Returns None if no layer would depend on a batch: the
    static graph is the same then.
    """
    editor = GraphEditor.of_bytes(graph)
    quantize_layers(editor, quantize_tables(editor), None)
    return serialize(editor.proto()) if editor.nodes("DynamicQuantizeLinear") else None
