"""Finds the steps in which values are rounded to uint8, from their ranges on rows of a log.

It knows a value and the weights that multiply it, and not how a layer is rewritten.

Columns that differ much in size cannot share a step: the small ones are all rounded to zero, and what they
tell, perhaps one row from the next, is lost whole. So such a value [.., in] is multiplied by a factor for
each column, and its weights are divided by it. Were the columns made equally large, the small ones would have
weights that are rounded to zero in their place. So a factor makes a column's largest number equal to its
largest weight: both then bear the root of what either alone would have to ("migration strength" 0.5 of Xiao
et al., "SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language Models", 2023).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx import helper

from export.graph.editing import Array, GraphEditor
from export.graph.runtime import open_session

ACTIVATION_LIMIT = 255
HEADROOM = 1.25
CALIBRATION_BATCH = 1024
# Evening costs another pass over a layer's inputs. It is worth that where it cuts the variance of rounding
# noise by this much, or where it saves as large a share of columns, with sizes below about two steps.
WORTHWHILE_NOISE_CUT = 16.0
WORTHWHILE_LOST_SHARE = 0.05
LOST_BELOW = 1 / 64
SMALLEST_SHARE = 1e-6  # of what the largest column adds to an output; a smaller one is taken to add this much


@dataclass(frozen=True)
class Step:
    """The step size and zero point of a value's uint8 form.

    The value [.., in] is first multiplied by `factors` [in] where its columns differ too much in size to
    share a step.
    """

    size: np.float32
    zero_point: int
    factors: Array | None = None


def steps_of(
    editor: GraphEditor, read_by: Mapping[ir.Value, Array], ids: NDArray[np.int32]
) -> dict[ir.Value, Step]:
    """The steps of values of the float graph, from their range on these rows plus a quarter.

    `read_by` holds the weights [outputs, in] that multiply a value [.., in].
    """
    if not read_by:
        return {}
    probe = ir.to_proto(editor.model)
    # As in the graph that ships: a flattened value has more lines than the batch that its first axis is named
    # after, and ONNX Runtime would give it the memory of a smaller value.
    del probe.graph.value_info[:]
    names = [str(value.name) for value in read_by]
    probe.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    session = open_session(probe.SerializeToString())
    smallest = [np.zeros(weights.shape[1], np.float32) for weights in read_by.values()]
    largest = [np.zeros(weights.shape[1], np.float32) for weights in read_by.values()]
    for start in range(0, len(ids), CALIBRATION_BATCH):
        batch = np.ascontiguousarray(ids[start : start + CALIBRATION_BATCH])
        for position, seen in enumerate(session.run(names, {session.get_inputs()[0].name: batch})):
            np.minimum(smallest[position], seen.min(axis=0), out=smallest[position])
            np.maximum(largest[position], seen.max(axis=0), out=largest[position])
    ranges = zip(read_by.items(), smallest, largest, strict=True)
    return {value: step_of(low, high, weights) for (value, weights), low, high in ranges}


def step_of(smallest: Array, largest: Array, weights: Array) -> Step:
    """smallest, largest [in] seen, with zero between them; weights [outputs, in]."""
    factors = _factors(np.maximum(-smallest, largest), weights)
    if factors is not None:
        smallest, largest = smallest * factors, largest * factors
    low, high = HEADROOM * float(smallest.min()), HEADROOM * float(largest.max())
    if high == low:  # a value that is always zero can have any step
        return Step(np.float32(1.0), 0, factors)
    size = (high - low) / ACTIVATION_LIMIT
    return Step(np.float32(size), round(-low / size), factors)


def _factors(sizes: Array, weights: Array) -> Array | None:
    """What to multiply columns of these sizes [in] by, None where they can share a step."""
    sizes, of_weights = sizes.astype(np.float64), weights.astype(np.float64)
    if not _is_worthwhile(sizes, np.square(of_weights).sum(axis=0)):
        return None
    largest_weights = np.abs(of_weights).max(axis=0)
    adds = sizes * largest_weights
    adds = np.maximum(adds, adds.max() * SMALLEST_SHARE)
    # A column that was always zero is taken to add as much as half of the others do.
    usual = float(np.median(adds[sizes > 0.0]))
    seen = np.divide(np.sqrt(adds), sizes, out=np.ones_like(sizes), where=sizes > 0.0)
    unseen = np.where(largest_weights > 0.0, largest_weights / np.sqrt(usual), 1.0)
    factors: Array = np.where(sizes > 0.0, seen, unseen).astype(np.float32)
    return factors


def _is_worthwhile(sizes: Array, influence: Array) -> bool:
    """Whether to even columns of these sizes [in], whose weights have these sums of squares [in]."""
    largest = sizes.max(initial=0.0)
    own, shared = (influence * np.square(sizes)).sum(), influence.sum() * largest**2
    used = (sizes > largest * SMALLEST_SHARE) & (influence > 0.0)
    lost = used & (sizes < largest * LOST_BELOW)
    return bool(shared > own * WORTHWHILE_NOISE_CUT or lost.sum() > used.sum() * WORTHWHILE_LOST_SHARE)
