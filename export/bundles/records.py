"""What is found out about bundles on a log, as plain data: printed as JSON, and shown by tables and pages."""

from __future__ import annotations

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
    told: tuple[str, ...]  # what a reader should not have to find in a table
    days: tuple[GroupQuality, ...]
    by: dict[str, Groups]
    fields: tuple[FieldShift, ...]
    seconds: float
