"""A part of a log as a replay sends it: times, requests, clicks; it knows no service."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
from numpy.typing import NDArray

from export.bundles.collect import collect
from export.bundles.plan import ReadPlan
from export.bundles.scorer import Scorer, Scores
from export.data.readers import LogChunk
from export.data.samples import raw_rows
from export.errors import ExportError
from service.bundle.schema import Schema
from service.bundle.store import Bundle
from service.feedback.tokens import EPOCH_MS

HOUR, DAY, WEEK = 3_600, 86_400, 604_800
_MOST = 0.99

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Log:
    """Rows in the order of time [n]: Unix seconds, bodies of requests, whether each is clicked if shown.

    `own` [n] are the bundle's pCTRs, `true` [n] are click probabilities where these are known. `shift` is
    when the world changes, None: it does not.
    """

    seconds: NDArray[np.int64]
    bodies: list[bytes]
    clicks: NDArray[np.bool_]
    own: Floats
    true: Floats | None = None
    shift: int | None = None

    def __len__(self) -> int:
        return len(self.seconds)

    def first(self, count: int) -> Log:
        """So many rows, the first ones."""
        true = None if self.true is None else self.true[:count]
        return Log(self.seconds[:count], self.bodies[:count], self.clicks[:count], self.own[:count], true)

    def shifted(self, at: int, factor: float, rng: np.random.Generator) -> Log:
        """The base rate is this many times what it was from this time on, at once.

        Below 1, clicks are taken away by chance. Above, others are added, so that the true probability of
        each row, or else the bundle's, rises by the factor, as far as it can.
        """
        later = self.seconds >= at
        drawn = rng.random(len(self))
        if factor <= 1.0:
            clicks = self.clicks & ~(later & (drawn >= factor))
        else:
            chances = self.own if self.true is None else self.true
            chance = np.minimum((factor - 1.0) * chances / np.maximum(1.0 - chances, 1e-9), 1.0)
            clicks = self.clicks | (later & (drawn < chance))
        true = self.true
        if true is not None:
            true = np.where(later, np.minimum(factor * true, _MOST), true)
        return replace(self, clicks=clicks, true=true, shift=at)


def last_rows(bundle: Bundle, plan: ReadPlan, share: float) -> Log:
    """The last `share` of a log by time. Raises ExportError for one without time, too."""
    parts: list[pl.DataFrame] = []

    def watch(chunk: LogChunk, _: Scores) -> None:
        parts.append(chunk.fields)

    found = collect(plan, Scorer(bundle), watch=watch)
    if found.timestamps is None:
        raise ExportError(
            "'schema' must name the column of the log's time (got none); nothing can be replayed"
        )
    order = np.argsort(found.timestamps, kind="stable")
    rows = order[-round(share * len(order)) :]
    fields = pl.concat(parts)[rows]
    true = None if found.true_pctr is None else found.true_pctr[rows].astype(np.float64)
    return Log(
        in_token_time(spread(found.timestamps[rows])),
        bodies(bundle.schema, fields),
        found.labels[rows] == 1,
        found.pctr[rows],
        true,
    )


def bodies(schema: Schema, fields: pl.DataFrame) -> list[bytes]:
    """A request for one candidate of each row, with tracking."""
    return [
        json.dumps(
            {"context": row["context"], "candidates": [{"features": row["candidate"]}], "tracking": True}
        ).encode()
        for row in raw_rows(schema, fields)
    ]


def in_token_time(seconds: NDArray[np.int64]) -> NDArray[np.int64]:
    """Times [n] in their order, later by whole weeks if they begin before the time that tokens can say."""
    weeks = -((int(seconds[0]) - EPOCH_MS // 1000) // WEEK)
    return seconds + WEEK * max(0, weeks)


def spread(seconds: NDArray[np.int64]) -> NDArray[np.int64]:
    """Times [n] in their order; rows that share one are spread evenly up to the next, an hour at most.

    A log that says the hour alone would else have all its requests at the beginning of it.
    """
    times, first, counts = np.unique(seconds, return_index=True, return_counts=True)
    gaps = np.minimum(np.diff(times, append=times[-1] + HOUR), HOUR)
    place = np.arange(len(seconds)) - np.repeat(first, counts)
    moved: NDArray[np.int64] = seconds + place * np.repeat(gaps, counts) // np.repeat(counts, counts)
    return moved
