"""The findings of an export as plain data: the content of report.json, and all that the page shows."""

from __future__ import annotations

from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from service.bundle.calibration import Calibrator
from service.bundle.manifest import (
    Baseline,
    Compression,
    Distillation,
    EmbeddingRows,
    FloatLayers,
    Latency,
    Metrics,
    Parity,
)

# Of a histogram's log-odds: in a narrower range the axis would have one label many times, and beyond a pCTR
# of one in a million a single row would squeeze all others.
LEAST_RANGE, FURTHEST = 2.0, 14.0


class FieldSummary(msgspec.Struct, frozen=True):
    """One field of the log.

    By part, `missing` is the share of rows without a value, and `unseen` the share of values without an id of
    their own: out of vocabulary, or in a bucket of hashing that no training row is in. Of the training part,
    `distinct` is the number of ids but the missing one, and `largest_share` the share of rows with the most
    frequent id. `auc` is that of the field alone on the validation part, by each value's click rate in
    training; on all rows after the training part where validation has too few clicks or non-clicks to tell,
    and None where these do too. `test_share` is the share of test rows with the id that is most frequent
    there, and `test_share_before` that id's share of the training rows. Of a vocabulary, `decimal` is a whole
    number with decimals (`3.0`) if all ids are, and `missing_word` a value that others write for a missing
    one. A sequence is counted by its first element, but for `unseen`.
    """

    name: str
    kind: str
    role: str
    cardinality: int
    missing: dict[str, float]
    unseen: dict[str, float]
    distinct: int
    largest_share: float
    auc: float | None
    test_share: float = 0.0
    test_share_before: float = 0.0
    decimal: str | None = None
    missing_word: str | None = None


class DataSummary(msgspec.Struct, frozen=True):
    """Where the rows come from and how they are split; the window is in unix seconds."""

    source: str
    split: str
    rows: dict[str, int]
    clicks: dict[str, int]
    skipped_rows: int
    window: tuple[int, int] | None
    negative_sampling_rate: float
    fields: tuple[FieldSummary, ...]


class EvaluationPoint(msgspec.Struct, frozen=True):
    """One evaluation on the validation part; `sparsity` has the shares to prune by the schedule so far."""

    epoch: float
    train_loss: float | None
    validation_logloss: float
    validation_auc: float
    rows_per_second: float | None = None
    sparsity: dict[str, float] = {}


class Reliability(msgspec.Struct, frozen=True):
    """Mean pCTR and click rate of bins with equally many rows, lowest pCTR first."""

    pctr: tuple[float, ...]
    click_rate: tuple[float, ...]
    rows: tuple[int, ...]


class RateWindow(msgspec.Struct, frozen=True):
    """A day of one part, or as many rows as the calibration part has; PCOC needs a click."""

    name: str
    part: str
    rows: int
    clicks: int
    pcoc_before: float | None
    pcoc_after: float | None


class PctrHistogram(msgspec.Struct, frozen=True):
    """Counts of clicks and of non-clicks by the log-odds of their pCTR; bins are of one width.

    `edges` has one number more than there are bins, in ascending order.
    """

    edges: tuple[float, ...]
    clicks: tuple[int, ...]
    others: tuple[int, ...]


class SegmentGain(msgspec.Struct, frozen=True):
    """What offsets by a field's values gain of the LogLoss of rows they were not fitted on.

    `error` is the gain's standard error, `spread` the offsets' standard deviation a priori.
    """

    field: str
    values: int
    spread: float
    gain: float
    error: float
    used: bool


class SegmentRow(msgspec.Struct, frozen=True):
    """The test rows with one value; PCOC needs a click, `offset` a calibrator that has offsets.

    `pcoc_before` is that of the graph alone, `pcoc_of_all` that of the calibrator without offsets.
    """

    value: str
    rows: int
    clicks: int
    offset: float | None
    pcoc_before: float | None
    pcoc_of_all: float | None
    pcoc_after: float | None


class SegmentFindings(msgspec.Struct, frozen=True):
    """How the field of `--calibrate-by` fares: what its offsets gain, and its most frequent values."""

    gain: SegmentGain
    values: int
    rows: tuple[SegmentRow, ...]


class FieldMatrix(msgspec.Struct, frozen=True):
    """FwFM's R: the strength of each pair of fields, symmetric, with zeros where a pair was pruned."""

    names: tuple[str, ...]
    values: tuple[tuple[float, ...], ...]


class PriorFindings(msgspec.Struct, frozen=True):
    """The prior that answers where no model runs: its fields, and its quality on two parts."""

    fields: tuple[str, ...]
    offsets: int
    validation: Metrics
    test: Metrics


class Findings(msgspec.Struct, frozen=True):
    """Everything the report says about one export."""

    bundle: str
    model: str
    hyperparameters: dict[str, object]
    parameters: int
    created_at: str
    data: DataSummary
    training: tuple[EvaluationPoint, ...]
    pruning: tuple[EvaluationPoint, ...]
    evaluation: dict[str, Metrics]
    uncalibrated: dict[str, Metrics]
    calibrators: dict[str, Calibrator]
    reliability_before: dict[str, Reliability]
    reliability_after: dict[str, Reliability]
    field_matrices: dict[str, FieldMatrix]
    graph_bytes: dict[str, int]
    parity: tuple[Parity, ...]
    latency: tuple[Latency, ...]
    machine: str
    compression: Compression | None
    layer_widths: tuple[int, ...]
    field_pairs: int
    serving_variant: str
    kept_out: dict[str, str]
    warnings: tuple[str, ...] = ()
    rate_windows: tuple[RateWindow, ...] = ()  # of the serving variant
    search: str | None = None  # what a search before the training found
    histogram: PctrHistogram | None = None  # of the serving variant
    baseline: Baseline | None = None
    segments: SegmentFindings | None = None  # of the serving variant
    ladder: tuple[Parity, ...] = ()  # on the validation part, LogLoss after a fitted line
    choices: tuple[str, ...] = ()  # what else decided which graph serves
    prior: PriorFindings | None = None
    distillation: Distillation | None = None
    quantization: Literal["static", "qat", "dynamic"] = "static"
    embedding_rows: EmbeddingRows | None = None
    float_layers: FloatLayers | None = None


def reliability(labels: NDArray[np.integer], pctr: NDArray[np.floating], *, bins: int = 15) -> Reliability:
    """Labels [n] and pCTR [n] in `bins` bins of equally many rows by pCTR; fewer bins if n is smaller."""
    order = np.argsort(pctr, kind="stable")
    groups = [group for group in np.array_split(order, bins) if len(group)]
    return Reliability(
        pctr=tuple(float(pctr[group].mean()) for group in groups),
        click_rate=tuple(float(labels[group].mean()) for group in groups),
        rows=tuple(len(group) for group in groups),
    )


def pctr_histogram(
    labels: NDArray[np.integer], pctr: NDArray[np.floating], *, bins: int = 40
) -> PctrHistogram:
    """Labels [n] and pCTR [n] in bins of log-odds; the outer bins hold what is beyond FURTHEST.

    Nearly equal pCTRs stand in the middle of an axis of LEAST_RANGE.
    """
    with np.errstate(divide="ignore"):
        odds = np.clip(np.log(pctr) - np.log1p(-pctr), -FURTHEST, FURTHEST)
    low, high = float(odds.min()), float(odds.max())
    if high - low < LEAST_RANGE:
        middle = (low + high) / 2
        low, high = middle - LEAST_RANGE / 2, middle + LEAST_RANGE / 2
    edges = np.linspace(low, high, bins + 1)
    clicks, others = (np.histogram(odds[labels == label], edges)[0] for label in (1, 0))
    return PctrHistogram(tuple(edges.tolist()), tuple(clicks.tolist()), tuple(others.tolist()))
