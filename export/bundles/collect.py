"""One pass over a log by one bundle: what each row's score and label are, and what its fields hold.

Memory holds some numbers a row, no features.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from export.bundles.grouping import Grouping
from export.bundles.plan import ReadPlan
from export.bundles.reading import log_schema_for, read_chunks
from export.bundles.records import FieldShift, NewLog
from export.bundles.scorer import Scorer, Scores
from export.data.errors import LogError, no_rows
from export.data.readers import LogChunk, columns_of
from export.errors import ExportError
from service.bundle.schema import MISSING_ID, OOV_ID, Field, Vocabulary

MOST_DAYS, DAY = 60, 86_400

Number = TypeVar("Number", bound=np.generic)
Watch = Callable[[LogChunk, Scores], None]


@dataclass(frozen=True, eq=False)
class Collected:
    """The rows of a log in their order, [n] each; shares by field."""

    lines: NDArray[np.int64]
    labels: NDArray[np.uint8]
    logits: NDArray[np.float32]
    pctr: NDArray[np.float64]
    timestamps: NDArray[np.int64] | None
    true_pctr: NDArray[np.float32] | None
    missing: dict[str, float]
    unseen: dict[str, float | None]
    log: NewLog

    def days(self) -> Iterator[tuple[str, NDArray[np.bool_]]]:
        """Each day (UTC) of a log with time, the latest ones: 2026-01-31, and which rows are of it."""
        if self.timestamps is None:
            return
        days = self.timestamps // DAY
        for day in np.unique(days)[-MOST_DAYS:].tolist():
            yield time.strftime("%Y-%m-%d", time.gmtime(day * DAY)), days == day


def collect(
    plan: ReadPlan, scorer: Scorer, *, groupings: Sequence[Grouping] = (), watch: Watch | None = None
) -> Collected:
    """Scores the labelled log of the plan; `groupings` and `watch` see each chunk with its scores.

    Raises LogError for a log without a label, clicks or non-clicks, ExportError for a grouping by a
    column that is not there.
    """
    bundle = scorer.bundle
    schema = log_schema_for(bundle, plan, needs_label=True)
    others = tuple(one.column for one in groupings if not one.is_field)
    columns = columns_of(plan.data, schema)
    for name in others:
        if name not in columns:
            fields = ", ".join(field.name for field in bundle.schema.fields)
            raise ExportError(
                f"'by' must name fields of the bundle ({fields}) or columns of {plan.data.name} "
                f"({', '.join(columns)}) (got {name!r})"
            )
    counts = {
        field.name: _Counts(field, bundle.schema.column_slices[field.name]) for field in bundle.schema.fields
    }
    lines, labels, logits, pctrs, times, trues = [], [], [], [], [], []
    skipped, disagreement = 0, None
    for chunk in read_chunks(plan, schema, "scored", others=others):
        skipped += chunk.skipped
        disagreement = chunk.disagreement
        if not len(chunk) or chunk.labels is None:
            continue
        found = scorer.score(chunk.fields, chunk.lines)
        lines.append(chunk.lines)
        labels.append(chunk.labels)
        logits.append(found.logits)
        pctrs.append(found.pctr)
        times.append(chunk.timestamps)
        trues.append(chunk.true_pctr)
        for one in counts.values():
            one.add(found.ids)
        for grouping in groupings:
            grouping.add(chunk, found.ids)
        if watch is not None:
            watch(chunk, found)
    if not lines:
        raise no_rows(plan.data.name, skipped, disagreement)
    timestamps, true_pctr = _joined(times), _joined(trues)
    clicked = np.concatenate(labels)
    if clicked.min() == clicked.max():
        raise LogError(
            f"{plan.data.name}: must hold clicks and non-clicks to judge by "
            f"(got {int(clicked.sum()):,} clicks in {len(clicked):,} rows); name a log with both"
        )
    return Collected(
        lines=np.concatenate(lines),
        labels=clicked,
        logits=np.concatenate(logits),
        pctr=np.concatenate(pctrs),
        timestamps=timestamps,
        true_pctr=true_pctr,
        missing={name: one.missing_share for name, one in counts.items()},
        unseen={name: one.unseen_share for name, one in counts.items()},
        log=NewLog(
            data=plan.data.name,
            rows=len(clicked),
            clicks=int(clicked.sum()),
            skipped_rows=skipped,
            window=None if timestamps is None else (int(timestamps.min()), int(timestamps.max())),
        ),
    )


def _joined(parts: Sequence[NDArray[Number] | None]) -> NDArray[Number] | None:
    """The chunks' arrays as one; None where the log has no such column."""
    known = [one for one in parts if one is not None]
    return np.concatenate(known) if known else None


class _Counts:
    """Missing rows and unseen values of one field, as the export counts them (export.judge.fields)."""

    def __init__(self, field: Field, columns: slice) -> None:
        self._columns = columns
        self._is_vocabulary = isinstance(field.encoding, Vocabulary)
        self._counts = np.zeros(4, np.int64)  # rows, missing rows, values, unseen values

    def add(self, ids: NDArray[np.int32]) -> None:
        own = ids[:, self._columns]
        missing = own == MISSING_ID
        unseen = int((own == OOV_ID).sum())
        self._counts += (len(own), int(missing[:, 0].sum()), int((~missing).sum()), unseen)

    @property
    def missing_share(self) -> float:
        return float(self._counts[1] / max(1, self._counts[0]))

    @property
    def unseen_share(self) -> float | None:
        return float(self._counts[3] / max(1, self._counts[2])) if self._is_vocabulary else None


def shifts(
    scorer: Scorer, found: Collected, before: dict[str, tuple[float, float]]
) -> tuple[FieldShift, ...]:
    """The fields, most moved first. `before` has the shares of missing rows in training, unseen in test."""
    trained = scorer.bundle.manifest.training.missing
    told = [
        FieldShift(
            name=field.name,
            kind=str(field.kind),
            role=str(field.role),
            missing=found.missing[field.name],
            missing_before=trained.get(field.name, before.get(field.name, (None, None))[0]),
            unseen=found.unseen[field.name],
            unseen_before=None
            if found.unseen[field.name] is None
            else before.get(field.name, (None, None))[1],
        )
        for field in scorer.bundle.schema.fields
    ]
    return tuple(sorted(told, key=lambda one: (-one.moved, one.name)))
