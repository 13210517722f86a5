"""Checks that graphs compute what they should, and decides which one serves.

It knows logits, labels and times; it does not know how a graph is made.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import nn

from export.errors import ExportError
from export.graph.runtime import open_session, run_graph
from export.judge.bootstrap import paired_changes
from export.judge.metrics import sigmoid
from service.bundle.manifest import Latency, Parity

TORCH_TOLERANCE = 1e-4
# What a step from one graph to a smaller one may lose.
AUC_TOLERANCE = 0.001
# Variants whose typical times differ by no more are as fast as each other: several times what two timings of
# the same small graphs differ by on a busy machine.
SAME_SPEED = 0.1
# One row, both sides of the widths that vector code works in, odd ones, and more than one cache holds.
BATCH_SIZES = (1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65, 127, 255, 1000)


def check_against_torch(model: nn.Module, graph: bytes, ids: NDArray[np.int32]) -> float:
    """The largest |logit| difference between a model and its graph on ids [n, columns].

    Raises ExportError above TORCH_TOLERANCE.
    """
    model.eval()
    with torch.inference_mode():
        wanted = model(torch.from_numpy(np.ascontiguousarray(ids))).numpy()
    found = run_graph(graph, ids)
    differences = np.abs(found - wanted)
    row = int(differences.argmax())
    if not differences[row] <= TORCH_TOLERANCE:
        raise ExportError(
            f"'logits' of the graph must be PyTorch's within {TORCH_TOLERANCE:g} "
            f"(got {found[row]!s} for {wanted[row]!s} in row {row}); "
            "the exported graph is wrong: do not serve it"
        )
    return float(differences[row])


def check_batch_invariance(
    graph: bytes,
    ids: NDArray[np.int32],
    *,
    tolerance: float = 0.0,
    batch_sizes: Sequence[int] = BATCH_SIZES,
    places: int = 12,
) -> None:
    """Raises ExportError unless a row's logit has the same bits in every batch and at every place in it.

    ids [n, columns] are scored in one batch, then in batches of each size that start at different rows. A
    `tolerance` is for float graphs on processors whose kernels are unknown.
    """
    session = open_session(graph)
    name = session.get_inputs()[0].name
    together = session.run(None, {name: np.ascontiguousarray(ids)})[0]
    for size in (size for size in batch_sizes if size <= len(ids)):
        for start in range(min(places, len(ids) - size + 1)):
            part = slice(start, start + size)
            logits = session.run(None, {name: np.ascontiguousarray(ids[part])})[0]
            differs = logits.view(np.int32) != together[part].view(np.int32)
            differs &= ~(np.abs(logits - together[part]) <= tolerance)
            if differs.any():
                at = int(differs.argmax())
                raise ExportError(
                    f"'logits' must not depend on the batch (got {logits[at]!s} for row {start + at} in a "
                    f"batch of {size}, {together[start + at]!s} in one of {len(ids)}); the graph holds an "
                    "operator whose order of addition depends on the batch"
                )


def compare_variants(
    names: tuple[str, str],
    labels: ArrayLike,
    logits: tuple[NDArray[np.float32], NDArray[np.float32]],
    pctrs: tuple[ArrayLike, ArrayLike] | None = None,
) -> Parity:
    """The differences between two variants on the same rows.

    names, logits [n] and calibrated pctrs [n] are (reference, variant). AUC is computed from the logits, and
    LogLoss too if there are no pctrs. Raises MetricError when labels hold no click or only clicks.
    """
    reference, variant = logits
    auc, logloss = paired_changes(labels, logits, pctrs or (sigmoid(reference), sigmoid(variant)))
    return Parity(
        reference=names[0],
        variant=names[1],
        max_abs_logit=float(np.abs(variant - reference).max()),
        auc_delta=auc.delta,
        logloss_delta=logloss.delta,
        auc_interval=auc.interval,
        logloss_interval=logloss.interval,
    )


def choose_serving_variant(
    reference: str,
    candidates: Sequence[str],
    latencies: Sequence[Latency],
    refused: Mapping[str, str],
    sizes: Mapping[str, int],
) -> tuple[str, dict[str, str]]:
    """The fastest variant that is not refused for a loss, and why each other candidate is kept out.

    Speed is the geometric mean of microseconds a row over the batch sizes: a tenth gained on single rows
    counts as much as a tenth gained on large batches. Variants within SAME_SPEED of each other are as fast,
    and the smaller one by `sizes` (bytes) serves: which of them a timing finds ahead is chance, and another
    would find the other. A candidate is kept out when it is `refused` (by variant, with the reason), or does
    not come before the reference so. Returns (variant, {candidate: reason}). Raises ExportError when a
    variant was not timed.
    """
    speed = {latency.variant: _typical_microseconds(latency.microseconds_a_row) for latency in latencies}
    for name in (reference, *candidates):
        if name not in speed:
            raise ExportError(
                f"'{name}' must be timed before it can serve (got no figures); measure it first"
            )
    kept_out: dict[str, str] = {}
    for name in candidates:
        if name in refused:
            kept_out[name] = refused[name]
        elif _first((name, reference), speed, sizes) == reference:
            why = (
                f"is slower than {reference}"
                if speed[name] > (1.0 + SAME_SPEED) * speed[reference]
                else f"is as fast as {reference}, and no smaller"
            )
            batches = ", ".join(_batches(latencies, name))
            kept_out[name] = (
                f"{why}, here: {speed[name]:.2f} us a row against {speed[reference]:.2f} "
                f"(geometric mean over batches of {batches})"
            )
    allowed = [reference, *(name for name in candidates if name not in kept_out)]
    return _first(allowed, speed, sizes), kept_out


def _first(names: Sequence[str], speed: Mapping[str, float], sizes: Mapping[str, int]) -> str:
    """The smallest of those that are as fast as the fastest; of equal ones the faster."""
    slowest = (1.0 + SAME_SPEED) * min(speed[name] for name in names)
    return min(
        (name for name in names if speed[name] <= slowest), key=lambda name: (sizes[name], speed[name])
    )


def _typical_microseconds(microseconds_a_row: Mapping[str, float]) -> float:
    return math.exp(sum(math.log(value) for value in microseconds_a_row.values()) / len(microseconds_a_row))


def _batches(latencies: Sequence[Latency], variant: str) -> list[str]:
    return [
        batch for latency in latencies if latency.variant == variant for batch in latency.microseconds_a_row
    ]
