"""Fits the map from a graph's logits to probabilities on held-out rows; knows nothing of graphs or files.

A map's level and its shape are decided apart. The level follows the calibration part as far as it is known
what the next window's level will be; the shape is the simplest one that later rows do not contradict.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import msgspec
import numpy as np
from numpy.typing import NDArray

from export.errors import ExportError
from export.judge.metrics import ece, logloss, pcoc, row_losses, sigmoid
from export.report.findings import SegmentGain
from export.stages.calibration_folds import Split, held_out_splits
from export.stages.calibration_methods import (
    METHODS,
    Fit,
    Labels,
    Logits,
    Shape,
    at_level,
    bend_evidence,
    fit_beta,
    fit_identity,
    fit_isotonic,
    fit_line,
    fit_offset,
    slope_evidence,
)
from export.stages.calibration_segments import Offsets, Segments, fit_offsets
from export.stages.level_forecast import Forecast
from export.train.config import TrainConfig
from service.bundle.calibration import Calibrator, Quality

# Differences below this are ties, which go to the simpler method.
TIE = 1e-5
# A LogLoss gain within a standard error counts when it comes with this share less ECE.
ECE_SHARE = 0.2
# What one more parameter must gain of twice the log likelihood: chi-square at the 10 % level.
EVIDENCE = 2.71


@dataclass(frozen=True)
class Judged:
    """A method's map, fitted on all rows, and its quality on rows that its fits did not see.

    `folds` are the maps of the splits, fitted and judged in the order of these.
    """

    shape: Shape
    quality: Quality
    row_losses: NDArray[np.float64]
    folds: tuple[Shape, ...]


@dataclass(frozen=True)
class HeldOut:
    """Logits [n] after the known correction, labels [n], and how to fit and judge a map of them."""

    logits: NDArray[np.float64]
    labels: Labels
    splits: Sequence[Split]
    bends: bool = True  # beta is a map of the graph's own logits: no known correction goes before it

    def judge(self, fit: Fit) -> Judged | None:
        """The map of all rows with its out-of-sample quality; None where a fold has too few."""
        shape = fit(self.logits, self.labels)
        if shape is None:
            return None
        folds, pctrs = [], []
        for fitted_on, judged in self.splits:
            fold = fit(self.logits[fitted_on], self.labels[fitted_on])
            if fold is None:
                return None
            folds.append(fold)
            pctrs.append(_calibrator(fold).pctr(self.logits[judged]))
        return self.judged(shape, folds, pctrs)

    def judged(self, shape: Shape, folds: Sequence[Shape], pctrs: Sequence[NDArray[np.float64]]) -> Judged:
        """The map with the quality of the pCTRs that each split's fit gives to the rows it judges."""
        pctr, labels = np.concatenate(pctrs), self.labels[np.concatenate([rows for _, rows in self.splits])]
        return Judged(shape, quality(labels, pctr), row_losses(labels, pctr), tuple(folds))


def fit_calibrator(
    logits: Logits,
    labels: Labels,
    *,
    variant: str,
    graph_sha256: str,
    training: TrainConfig | None = None,
    sampling_rate: float = 1.0,
    timestamps: NDArray[np.int64] | None = None,
    expected: Forecast | None = None,
    methods: Sequence[str] = tuple(METHODS),
    segments: Segments | None = None,
    told: Callable[[SegmentGain], None] | None = None,
) -> Calibrator:
    """The calibrator of one graph from its logits [n] and labels [n] on rows it was not trained on.

    The method is chosen out of sample, on later rows where there are `timestamps` [n], and fitted again on
    all rows. `expected` is what the window after these rows will lack of the log-odds; without it the level
    of these rows alone counts. Where `training` weighed clicks or sampled non-clicks, `identity` undoes just
    that; the labels are as the log has them. `sampling_rate` is the share of non-clicks that the log itself
    kept, in (0, 1]: the shape is fitted and judged in the log's own distribution, and serving corrects for
    the sampling by adding ln(sampling_rate). `before` is the quality of the raw logits, `after` the chosen
    method's out-of-sample quality, on the same rows. The order of the rows makes no difference.

    With `segments` the calibrator has offsets by their ids, where these lower the LogLoss of rows they were
    not fitted on beyond noise; `told` hears what they gain. Raises ExportError for logits that are not
    finite, for rows without both clicks and non-clicks, for a bad rate.
    """
    logits, labels = np.asarray(logits, dtype=np.float64), np.asarray(labels, dtype=np.uint8)
    _check(logits, labels, sampling_rate, methods)
    window = None if timestamps is None else (int(timestamps.min()), int(timestamps.max()))
    ids = np.zeros(len(labels), np.int32) if segments is None else segments.ids
    order = np.lexsort((ids, labels, logits))
    logits, labels, ids = logits[order], labels[order], ids[order]
    splits = held_out_splits(labels, None if timestamps is None else timestamps[order])
    base = fit_identity(logits, labels, training)
    if tuple(methods) == ("beta",):
        base = Shape("identity")  # beta's family has every line in it, the known one too
    rows = HeldOut(base.logits(logits), labels, splits, bends=base.method == "identity")
    chosen = choose(rows, expected, methods)
    calibrator = _calibrator(chosen.shape.after(base), variant=variant, graph_sha256=graph_sha256)
    if segments is not None:
        chosen, offsets, gain = judge_offsets(rows, chosen, Segments(segments.field, ids))
        if told is not None:
            told(gain)
        if gain.used:
            calibrator = msgspec.structs.replace(
                calibrator, segment_field=segments.field, segment_offsets=offsets.pairs()
            )
    judged = np.concatenate([rows for _, rows in splits])
    return msgspec.structs.replace(
        calibrator,
        sampling_rate=sampling_rate,
        fit_rows=len(labels),
        fit_clicks=int(labels.sum()),
        fit_window=window,
        before=quality(labels[judged], _calibrator(Shape("identity")).pctr(logits[judged])),
        after=chosen.quality,
    )


def in_log_distribution(calibrator: Calibrator) -> Calibrator:
    """The calibrator without its sampling correction, for comparison with labels of a down-sampled log."""
    return msgspec.structs.replace(calibrator, sampling_rate=1.0)


def quality(labels: Labels, pctr: NDArray[np.float64]) -> Quality:
    """LogLoss, ECE and PCOC of probabilities [n] against labels [n]."""
    return Quality(logloss=logloss(labels, pctr), ece=ece(labels, pctr), pcoc=pcoc(labels, pctr))


def choose(rows: HeldOut, expected: Forecast | None, methods: Sequence[str]) -> Judged:
    """The simplest of the allowed methods that the evidence does not contradict.

    The level is moved if its deviation stands out of sampling noise, as far as the next window is expected to
    keep it. Platt's slope and beta's bend need evidence on all rows and less LogLoss on rows they were not
    fitted on; isotonic knots have to be clearly better there. Raises ExportError where none of the methods
    can be fitted.
    """
    offset, variance = fit_offset(rows.logits, rows.labels)
    level = trust(offset**2 / variance)
    if level and expected is not None:
        level = expected.share_of(offset)
    slope = trust(slope_evidence(rows.logits, rows.labels))

    def judge(fit: Fit) -> Judged | None:
        return rows.judge(partial(_fit_at_level, fit, level))

    best = rows.judge(fit_identity) if "identity" in methods else None
    if "platt" in methods and (level or best is None):
        best = judge(partial(fit_line, slope_share=0.0))
    if "platt" in methods and slope:
        line = judge(partial(fit_line, slope_share=slope))
        best = line if line and best and line.quality.logloss < best.quality.logloss else best
    if "beta" in methods and rows.bends and (bend := _bend_share(rows, methods)):
        bent = judge(partial(fit_beta, bend_share=bend, slope_share=slope))
        best = bent if bent and (best is None or bent.quality.logloss < best.quality.logloss) else best
    if "isotonic" in methods and (knots := judge(fit_isotonic)):
        best = knots if best is None or clearly_better(knots, best) else best
    if best is None:
        raise ExportError(
            f"'calibration part' must be larger for {' or '.join(methods)} (got {len(rows.labels)} rows, "
            f"{int(rows.labels.sum())} clicks); allow identity or platt"
        )
    return best


def judge_offsets(rows: HeldOut, chosen: Judged, segments: Segments) -> tuple[Judged, Offsets, SegmentGain]:
    """Offsets by segment on top of the chosen map, fitted on all rows, and what they gain out of sample.

    The quality returned has them if they are used: if the gain is larger than its standard error by as much
    as other evidence has to be.
    """
    ids, pctrs = segments.ids, []
    for (fitted_on, judged), fold in zip(rows.splits, chosen.folds, strict=True):
        offsets = fit_offsets(fold.logits(rows.logits[fitted_on]), rows.labels[fitted_on], ids[fitted_on])
        raised = fold.logits(rows.logits[judged]) + offsets.of(ids[judged])
        pctrs.append(_calibrator(Shape("identity")).pctr(raised))
    with_offsets = rows.judged(chosen.shape, chosen.folds, pctrs)
    offsets = fit_offsets(chosen.shape.logits(rows.logits), rows.labels, ids)
    gains = chosen.row_losses - with_offsets.row_losses
    gain, error = float(gains.mean()), float(gains.std() / np.sqrt(len(gains)))
    used = len(offsets.ids) > 0 and gain > max(TIE, np.sqrt(EVIDENCE) * error)
    found = SegmentGain(segments.field, len(np.unique(ids)), offsets.spread, gain, error, bool(used))
    return with_offsets if used else chosen, offsets, found


def _bend_share(rows: HeldOut, methods: Sequence[str]) -> float:
    """How much of beta's bend to believe; all of it where nothing simpler is allowed."""
    if not {"identity", "platt"} & set(methods):
        return 1.0
    return trust(bend_evidence(rows.logits, rows.labels))


def trust(evidence: float) -> float:
    """The share of a deviation to correct, from 0 to 1, by its square over its variance.

    The positive-part James-Stein factor, the empirical Bayes estimate of a mean that is expected near zero
    (Efron and Morris, "Stein's estimation rule and its competitors", 1973); nothing below EVIDENCE.
    """
    return 1 - 1 / evidence if evidence > EVIDENCE else 0.0


def clearly_better(rival: Judged, best: Judged) -> bool:
    """Whether the rival's LogLoss is lower by more than a standard error of the paired difference.

    A LogLoss that is lower at all suffices with a fifth less ECE.
    """
    gains = best.row_losses - rival.row_losses
    gain, error = float(gains.mean()), float(gains.std() / np.sqrt(len(gains)))
    closer = rival.quality.ece < (1 - ECE_SHARE) * best.quality.ece
    return gain > TIE and (gain > error or closer)


def _fit_at_level(fit: Fit, level: float, logits: Logits, labels: Labels) -> Shape | None:
    """The fitted map, with this share of what the level deviates from that of the logits as they are."""
    shape = fit(logits, labels)
    if shape is None:
        return None
    offset, _ = fit_offset(logits, labels)
    return at_level(shape, logits, float(sigmoid(logits + level * offset).mean()))


def _calibrator(shape: Shape, *, variant: str = "", graph_sha256: str = "") -> Calibrator:
    """The shape as the contract's calibrator, without figures of its fit."""
    unknown = Quality(logloss=0.0, ece=0.0, pcoc=0.0)
    return Calibrator(
        variant=variant,
        graph_sha256=graph_sha256,
        method=shape.method,  # type: ignore[arg-type]
        slope=shape.slope,
        low_slope=shape.low_slope,
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
