"""What is found out about bundles on a log, as plain data: printed as JSON, and shown by tables and pages."""

from __future__ import annotations

from typing import Literal

import msgspec

from service.bundle.manifest import Metrics

Interval = tuple[float, float]


class Subject(msgspec.Struct, frozen=True):
    """Which bundle, and which of its graphs."""

    bundle: str
    variant: str
    model: str
    created_at: str


class NewLog(msgspec.Struct, frozen=True):
    """The rows that were read; the window is in unix seconds, None for a log without time."""

    data: str
    rows: int
    clicks: int
    skipped_rows: int
    window: tuple[int, int] | None


class GroupQuality(msgspec.Struct, frozen=True):
    """The rows of one day, or with one value. PCOC needs a click, the metrics a click and a non-click."""

    name: str
    rows: int
    clicks: int
    pcoc_before: float | None
    pcoc_after: float | None
    metrics: Metrics | None  # calibrated


class Groups(msgspec.Struct, frozen=True):
    """The values of a column with the most rows, of `values` in all."""

    values: int
    shown: tuple[GroupQuality, ...]


class FieldShift(msgspec.Struct, frozen=True):
    """A field's shares without a value, and of values that training did not show, here and in training.

    `unseen` are of vocabularies alone: a bundle does not know which buckets of hashing training had.
    `unseen_before` is that of the export's test part. None: the bundle does not say.
    """

    name: str
    kind: str
    role: str
    missing: float
    missing_before: float | None
    unseen: float | None
    unseen_before: float | None

    @property
    def moved(self) -> float:
        """The larger of the two changes of a share."""
        changes = ((self.missing, self.missing_before), (self.unseen, self.unseen_before))
        return max((abs(a - b) for a, b in changes if a is not None and b is not None), default=0.0)


class Quality(msgspec.Struct, frozen=True):
    """The metrics of pCTRs, and their 95 % intervals by name; ECE has none."""

    metrics: Metrics
    intervals: dict[str, Interval]


class Evaluation(msgspec.Struct, frozen=True):
    """How good a bundle is on a log; `at_export` are the metrics of its own test part."""

    subject: Subject
    log: NewLog
    calibrated: Quality
    uncalibrated: Quality
    at_export: Metrics | None
    at_export_uncalibrated: Metrics | None
    notes: tuple[str, ...]  # what a reader should not have to find in a table
    warnings: tuple[str, ...]  # and what is worse than it was
    days: tuple[GroupQuality, ...]
    by: dict[str, Groups]
    fields: tuple[FieldShift, ...]
    seconds: float


class Side(msgspec.Struct, frozen=True):
    """One of two bundles: how good it is, its sizes, and its microseconds a row by batch size."""

    subject: Subject
    quality: Quality
    parameters: int
    columns: int
    graph_bytes: int
    bundle_bytes: int
    microseconds_a_row: dict[str, float]


class Change(msgspec.Struct, frozen=True):
    """A metric of both, and the second's minus the first's with its 95 % paired interval; ECE has none.

    `verdict` is empty where the interval holds zero or clicks or non-clicks are too few to tell, and for
    metrics of which neither end is better.
    """

    first: float
    second: float
    delta: float
    interval: Interval | None
    verdict: str


class DayChange(msgspec.Struct, frozen=True):
    """The rows of one day; without a click and a non-click it has no metrics."""

    name: str
    rows: int
    clicks: int
    changes: dict[str, Change]


class Agreement(msgspec.Struct, frozen=True):
    """How alike two bundles score the same rows.

    `rank_correlation` is Spearman's, None where one of them scores all rows alike; `top_share` is the share
    of the tenth of rows with the first one's highest pCTRs that are in that tenth of the second. The others
    are of the differences of calibrated log-odds, and the share of rows whose pCTRs are more than a tenth
    apart.
    """

    rank_correlation: float | None
    top_share: float
    mean_difference: float
    mean_absolute: float
    largest: float
    apart: float


class Disagreement(msgspec.Struct, frozen=True):
    """The rows with one value of a field, where the two differ otherwise than on the whole.

    `difference` is the mean of the second's log-odds minus the first's, `errors` by how many standard errors
    it is off that of all rows.
    """

    field: str
    value: str
    rows: int
    clicks: int
    pctr_first: float
    pctr_second: float
    difference: float
    errors: float


class Diff(msgspec.Struct, frozen=True):
    """Two bundles on the rows that both read; `rows_left_out` were malformed for one of them."""

    first: Side
    second: Side
    log: NewLog
    rows_left_out: int
    changes: dict[str, Change]
    days: tuple[DayChange, ...]
    agreement: Agreement
    values: tuple[Disagreement, ...]
    machine: str
    seconds: float


class Importance(msgspec.Struct, frozen=True):
    """What the metrics lose when a field's values are shuffled among the rows, with 95 % intervals.

    `verdict` says whether LogLoss rises beyond noise (the field matters), falls (it harms), or neither; with
    too few clicks or non-clicks it is noise.
    """

    field: str
    kind: str
    role: str
    logloss: float
    logloss_interval: Interval
    auc: float
    auc_interval: Interval
    verdict: Literal["matters", "harms", "noise"]


class Move(msgspec.Struct, frozen=True):
    """By how much a field's value moved the logit of a row, with the standard error of that figure."""

    field: str
    value: str
    logit: float
    error: float


class ExplainedRow(msgspec.Struct, frozen=True):
    """One row: the moves of all fields add up to its logit minus that of the rows it is held against.

    `pctr` is what a service answers, whatever share of the non-clicks the log kept.
    """

    row: int
    clicked: bool
    logit: float
    pctr: float
    background_logit: float
    moves: tuple[Move, ...]


class Explanation(msgspec.Struct, frozen=True):
    """Which fields a bundle's quality rests on: `rows` of the log, on which it has these metrics."""

    subject: Subject
    log: NewLog
    rows: int
    auc: float
    logloss: float
    fields: tuple[Importance, ...]  # those with the largest rise of LogLoss first
    row: ExplainedRow | None
    seconds: float
