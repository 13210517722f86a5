"""Turns a float graph into a static INT8 graph: the embedding tables and the linear layers.

It knows operators, not models, schemas or training. `parity` measures the loss.

What is INT8 and how:

- Tables: uint8 codes around 128 with one scale a field; narrower ones are packed (`row_codes`). The codes
  pass through the graph; a field's scale is folded into every weight that multiplies the field
  (`int8_tables`). So a layer that follows the lookup reads the codes without another quantization.
- Layers: int8 weights with a scale for each output, uint8 activations with a range found on training rows
  (QDQ; ONNX Runtime fuses a layer into one QGemm, `int8_layers`). Small layers, FwFM's matrix and layers with
  one output stay float32, because INT8 gains nothing there. So do products of several groups, which models
  fold into layers for inference (MMoE's experts, FiBiNET's matrices).
- Activation ranges are from the smallest to the largest value seen plus a quarter. Percentiles lose more:
  activations have long tails. Columns too unlike in size to share a range are evened (`int8_steps`).
- Weights take 7 bits. A CPU without VNNI multiplies u8 x s8 by adding pairs of products in 16 bits, which
  8-bit weights saturate, and the logits change silently. 2 * 255 * 64 fits in 16 bits, so all CPUs give the
  same bits. u8 x u8, the alternative, is slower.

docs/measured-training.md has the figures.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from export.errors import ExportError
from export.graph.editing import GraphEditor
from export.graph.int8_layers import quantize_layers
from export.graph.int8_tables import Forms, quantize_tables
from export.graph.onnx import serialize
from export.graph.unrounded import Unrounded

CALIBRATION_ROWS = 16_384  # more rows change no range and take memory


def quantize_int8(
    graph: bytes,
    calibration_ids: NDArray[np.int32],
    forms: Forms | None = None,
    unrounded: Unrounded | None = None,
    kept: Collection[str] = (),
) -> bytes | None:
    """The INT8 graph of a float graph of `export_onnx`, calibrated on ids [n, columns] of the training part.

    `forms` says how rows of tables are written, `row_widths` chooses it; without it large tables take 8 bits.
    `unrounded` gets what the integers were rounded from. `kept` names layers that stay float32
    (`gaining_layers`). Returns None if nothing in it can be INT8: trees
    have neither tables nor layers. Raises ExportError if there are no rows.
    """
    rows = _spread(calibration_ids)
    editor = GraphEditor.of_bytes(graph)
    codes = quantize_tables(editor, forms, unrounded)
    layers = quantize_layers(editor, codes, rows, unrounded, kept)
    return serialize(editor.proto()) if codes or layers else None


def quantize_dynamic(
    graph: bytes,
    calibration_ids: NDArray[np.int32],
    forms: Forms | None = None,
    kept: Collection[str] = (),
) -> bytes | None:
    """The INT8 graph of a float graph that finds the ranges of its layers' inputs in each batch.

    A row's logit depends on the other rows of its batch. Tables, and layers that read their codes, are those
    of `quantize_int8`, and so is the number of bits; ids [n, columns] of the training part tell which columns
    of an input are too unlike in size to share a range. Returns None if no layer would depend on a batch: the
    static graph is the same then.
    """
    editor = GraphEditor.of_bytes(graph)
    codes = quantize_tables(editor, forms)
    quantize_layers(editor, codes, _spread(calibration_ids), kept=kept, by_batch=True)
    return serialize(editor.proto()) if editor.nodes("DynamicQuantizeLinear") else None


def _spread(calibration_ids: NDArray[np.int32]) -> NDArray[np.int32]:
    if len(calibration_ids) == 0:
        raise ExportError("'calibration_ids' must hold at least one row (got 0); calibrate on training rows")
    return calibration_ids[:: -(-len(calibration_ids) // CALIBRATION_ROWS)]
