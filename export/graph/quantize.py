"""Turns a float graph into a static INT8 one: the embedding tables and the linear layers.

It knows operators and no model, schema, training or judgement: `parity` says what was lost.

What is INT8 and how:

- Tables: uint8 codes around 128 with one scale a field. The codes go through the graph as they are; a field's
  scale is folded into every weight that meets the field (`table_codes`). So a layer right behind the lookup
  reads the codes with no quantization of its own and no rounding beyond the table's (1024 rows in 1.2 ms; 1.8
  ms with a DequantizeLinear by field).
- Layers: int8 weights with a scale an output, uint8 activations with a range found on training rows (QDQ;
  ONNX Runtime fuses a layer to one QGemm, `int8_layers`). Small ones, FwFM's matrix and outputs of one number
  stay float32: they gain nothing.
- Activation ranges are the largest value seen and a quarter more. On Criteo rows (logits of standard
  deviation 1.3 to 1.7) that keeps the logit's error at 0.006 whether 200 or 16,000 rows calibrate. Cut at
  the 99.99th percentile it is twice that, with single rows off by 0.4; at the 99.9th ten times:
  activations have long tails.
- Weights take 7 bits. A CPU without VNNI multiplies u8 x s8 by adding pairs of products in 16 bits, which
  8-bit weights saturate: silently other logits, by up to 0.03 on an emulated Haswell. 2 * 255 * 64 fits, and
  there all bits are those of a VNNI machine. It costs no time and 0.0003 to 0.0015 of the logit's error
  above. u8 x u8, the other way out, takes 1.4 to 1.65 times as long.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from export.errors import ExportError
from export.graph.editing import GraphEditor
from export.graph.int8_layers import turn_layers_into_int8
from export.graph.onnx import serialize
from export.graph.table_codes import turn_tables_into_codes

CALIBRATION_ROWS = 16_384  # more of them move no range and take memory


def quantize_int8(graph: bytes, calibration_ids: NDArray[np.int32]) -> bytes | None:
    """The INT8 graph of a float graph of `export_onnx`, calibrated on ids [n, columns] of the training part.

    None where nothing in it can be INT8: trees have neither tables nor layers. Raises ExportError when there
    are no rows.
    """
    if len(calibration_ids) == 0:
        raise ExportError("'calibration_ids' must hold at least one row (got 0); calibrate on training rows")
    rows = calibration_ids[:: -(-len(calibration_ids) // CALIBRATION_ROWS)]
    editor = GraphEditor.of_bytes(graph)
    codes = turn_tables_into_codes(editor)
    layers = turn_layers_into_int8(editor, codes, rows)
    return serialize(editor.proto()) if codes or layers else None
