"""Fits the map from a graph's logits to probabilities on held-out rows; knows nothing of graphs or files.

Each method is judged on rows that it was not fitted on (interleaved folds), and a simpler one gives way only
to a clearly better one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import msgspec
import numpy as np
from numpy.typing import NDArray

from export.errors import ExportError
from export.judge.metrics import ece, logloss, pcoc
from export.stages.calibration_methods import METHODS, Fit, Labels, Logits, Shape, fit_identity
from export.train.config import TrainConfig
from service.bundle.calibration import Calibrator, Quality

FOLDS = 5
# Differences below this are ties, which go to the simpler method.
TIE = 1e-5
# A LogLoss gain within a standard error counts when it comes with this share less ECE.
ECE_SHARE = 0.2


@dataclass(frozen=True)
class Judged:
    """A method's shape, fitted on all rows, and its quality on rows that its fits did not see."""

    shape: Shape
    quality: Quality
    row_losses: NDArray[np.float64]


def fit_calibrator(
    logits: Logits,
    labels: Labels,
    *,
    variant: str,
    graph_sha256: str,
    training: TrainConfig | None = None,
    sampling_rate: float = 1.0,
    window: tuple[int, int] | None = None,
    methods: Sequence[str] = tuple(METHODS),
) -> Calibrator:
    """The calibrator of one graph from its logits [n] and labels [n] on rows it was not trained on.

    The method is chosen out of sample and fitted again on all rows. Where `training` weighed clicks or
    sampled non-clicks, `identity` undoes just that; the labels are as the log has them. `sampling_rate` is
    the share of non-clicks that the log itself kept, in (0, 1]: the shape is fitted and judged in the log's
    own distribution, and serving corrects for the sampling by adding ln(sampling_rate). `before` is the
    quality of the raw logits, `after` the chosen method's out-of-sample quality. Raises ExportError for
    logits that are not finite, for rows without both clicks and non-clicks, for a bad rate.
    """
    logits, labels = np.asarray(logits, dtype=np.float64), np.asarray(labels, dtype=np.uint8)
    _check(logits, labels, sampling_rate, methods)
    fits = METHODS | {"identity": partial(fit_identity, training=training)}
    judged = [
        found for name, fit in fits.items() if name in methods and (found := _judge(fit, logits, labels))
    ]
    if not judged:
        raise ExportError(
            f"'calibration part' must be larger for {' or '.join(methods)} (got {len(labels)} rows, "
            f"{int(labels.sum())} clicks); allow identity or platt"
        )
    chosen = choose(judged)
    calibrator = _calibrator(chosen.shape, variant=variant, graph_sha256=graph_sha256)
    return msgspec.structs.replace(
        calibrator,
        sampling_rate=sampling_rate,
        fit_rows=len(labels),
        fit_clicks=int(labels.sum()),
        fit_window=window,
        before=quality(labels, _calibrator(Shape("identity")).pctr(logits)),
        after=chosen.quality,
    )


def in_log_distribution(calibrator: Calibrator) -> Calibrator:
    """The calibrator without its sampling correction, for comparison with labels of a down-sampled log."""
    return msgspec.structs.replace(calibrator, sampling_rate=1.0)


def quality(labels: Labels, pctr: NDArray[np.float64]) -> Quality:
    """LogLoss, ECE and PCOC of probabilities [n] against labels [n]."""
    return Quality(logloss=logloss(labels, pctr), ece=ece(labels, pctr), pcoc=pcoc(labels, pctr))


def choose(judged: Sequence[Judged]) -> Judged:
    """The last method, in order from simple to flexible, that is clearly better than the one it replaces.

    Clearly better: a LogLoss lower by more than a standard error of the paired difference, or lower at all
    with a fifth less ECE.
    """
    best = judged[0]
    for rival in judged[1:]:
        gains = best.row_losses - rival.row_losses
        gain, error = float(gains.mean()), float(gains.std() / np.sqrt(len(gains)))
        closer = rival.quality.ece < (1 - ECE_SHARE) * best.quality.ece
        if gain > TIE and (gain > error or closer):
            best = rival
    return best


def _judge(fit: Fit, logits: Logits, labels: Labels) -> Judged | None:
    """Out-of-sample quality by interleaved folds; None where a fold has too few rows for the method."""
    fitted = fit(logits, labels)
    if fitted is None:
        return None
    pctr = np.empty(len(labels))
    fold = np.arange(len(labels)) % FOLDS
    for held_out in range(FOLDS):
        rows = fold != held_out
        shape = fit(logits[rows], labels[rows])
        if shape is None:
            return None
        pctr[~rows] = _calibrator(shape).pctr(logits[~rows])
    losses = -np.where(labels == 1, np.log(pctr), np.log1p(-pctr))
    return Judged(fitted, quality(labels, pctr), losses)


def _calibrator(shape: Shape, *, variant: str = "", graph_sha256: str = "") -> Calibrator:
    """The shape as the contract's calibrator, without figures of its fit."""
    unknown = Quality(logloss=0.0, ece=0.0, pcoc=0.0)
    return Calibrator(
        variant=variant,
        graph_sha256=graph_sha256,
        method=shape.method,  # type: ignore[arg-type]
        slope=shape.slope,
        intercept=shape.intercept,
        knots=shape.knots,
        fit_rows=0,
        fit_clicks=0,
        fit_window=None,
        before=unknown,
        after=unknown,
    )


def _check(logits: Logits, labels: Labels, sampling_rate: float, methods: Sequence[str]) -> None:
    if unknown := [name for name in methods if name not in METHODS]:
        raise ExportError(f"'methods' must be among {', '.join(METHODS)} (got {unknown[0]!r}); drop it")
    if not 0 < sampling_rate <= 1:
        raise ExportError(
            f"'sampling_rate' must be above 0 and at most 1 (got {sampling_rate!r}); "
            "give the share of non-clicks that the log kept"
        )
    if not np.isfinite(logits).all():
        bad = int((~np.isfinite(logits)).sum())
        raise ExportError(
            f"'logits' must be finite (got {bad} NaN or infinite of {len(logits)}); train with a lower rate"
        )
    clicks = int(labels.sum())
    if not 0 < clicks < len(labels):
        raise ExportError(
            "'calibration part' must hold clicks and non-clicks "
            f"(got {clicks} clicks in {len(labels)} rows); give it a larger share of the log"
        )
