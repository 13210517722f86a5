"""Joins the log of examples with the log of events: a Parquet file an hour, once that hour is closed.

An hour is closed when its last token can count no more: `window_seconds` after its end, and a few minutes
for what is written late. Its file is made whole or not at all, and is never made again, so that a run that
was ended, or that comes twice, does no harm. It knows no service that runs: it reads what that has written.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

import numpy as np

from service.bundle.example_columns import CLICKED, SHOWN
from service.bundle.folders import locked
from service.bundle.schema import Schema
from service.calibration.hours import HOUR_MS
from service.errors import BadConfiguration, ServiceError
from service.examples.columns import Ads, Columns, Judged
from service.examples.outcomes import (
    MAX_TOKENS,
    NEVER,
    EventReader,
    Outcomes,
    Part,
    TooMany,
    read_outcomes,
)
from service.examples.parquet import HourRecord, ParquetHour, read_record
from service.examples.record import ReadExample, read_line
from service.examples.sampling import NAME as EXAMPLES
from service.feedback.hourly_log import end_of, hour_of, read_lines, whole_name
from service.feedback.log import NAME as EVENTS
from service.feedback.tokens import read_unverified

RowsKept = Literal["shown", "all"]
# What comes late: by a clock that is a minute behind, and a disk that hangs for a moment.
GRACE_MS = 180_000
# A line is in the file of the hour in which it was written, which a disk that hangs puts off.
LATE_LINES_MS = HOUR_MS
EXAMPLES_AT_ONCE = 64
# Rows of a row group: what memory holds of them.
GROUP_ROWS = 50_000


@dataclass(frozen=True)
class JoinPlan:
    """What is joined: folders of both logs, the fields, the folder of the files, and what becomes a row."""

    examples: Sequence[Path]
    events: Sequence[Path]
    out: Path
    bundle: str
    schema: Schema
    window_seconds: int = 86_400
    rows: RowsKept = "shown"
    deletes: bool = False
    max_tokens: int = MAX_TOKENS

    @property
    def window_ms(self) -> int:
        """How long after its token an event counts, in milliseconds."""
        return 1000 * self.window_seconds


@dataclass
class JoinedHour:
    """What came of an hour. `is_new`: its file was made now; else it was there, and `found_late` are files
    of the hour that it was not made of."""

    hour: datetime
    path: Path
    is_new: bool = True
    found_late: Sequence[str] = ()
    requests: int = 0
    rows: int = 0
    shown: int = 0
    clicked: int = 0
    unreadable: int = 0
    unreadable_events: int = 0
    late_clicks: int = 0
    unknown_ads: int = 0
    deleted: int = 0


def join_hours(plan: JoinPlan, ads: Ads | None, now: int) -> Iterator[JoinedHour]:
    """Join the hours that are closed at a Unix time in milliseconds, the oldest first, each as it is done.

    Raises OSError, BadConfiguration: another one joins into that folder.
    """
    with _alone(plan.out):
        for stale in plan.out.glob(f".{EXAMPLES}-*.part"):  # of a run that was killed
            stale.unlink()
        events = _files_by_hour(plan.events, EVENTS)
        for hour, files in sorted(_files_by_hour(plan.examples, EXAMPLES).items()):
            if is_closed(hour, plan, now):
                yield _Hour(plan, ads, hour, files, events).join()


def open_hours(plan: JoinPlan, now: int) -> int:
    """How many hours wait until they are closed."""
    hours = _files_by_hour(plan.examples, EXAMPLES)
    return sum(not is_closed(hour, plan, now) for hour in hours)


def is_closed(hour: datetime, plan: JoinPlan, now: int) -> bool:
    """Whether no event can come any more that counts for a token of that hour."""
    return now >= end_of(hour) + plan.window_ms + GRACE_MS


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Keep the folder for this process. Raises OSError, BadConfiguration."""
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(out, wait=False))
        except BlockingIOError:
            raise BadConfiguration(
                f"'--out' must be a folder that nobody else joins into now (got {str(out)!r}); "
                "wait until that run has ended"
            ) from None
        yield


def _files_by_hour(folders: Iterable[Path], name: str) -> dict[datetime, list[Path]]:
    found: dict[datetime, list[Path]] = {}
    for folder in folders:
        for path in sorted(folder.iterdir()):
            hour = hour_of(path, name)
            if hour is not None:
                found.setdefault(hour, []).append(path)
    return found


class _Hour:
    """One hour that is closed."""

    def __init__(
        self,
        plan: JoinPlan,
        ads: Ads | None,
        hour: datetime,
        files: Sequence[Path],
        events: Mapping[datetime, Sequence[Path]],
    ) -> None:
        self._plan = plan
        self._hour = hour
        self._files = files
        self._events = events
        self._columns = Columns(plan.schema, ads)
        self._done = JoinedHour(hour, plan.out / f"{EXAMPLES}-{hour:%Y-%m-%dT%H}.parquet")

    def join(self) -> JoinedHour:
        """Make the file, unless it is there, and delete what it was made of, if that is asked for."""
        done = self._done
        record = read_record(done.path) if done.path.exists() else None
        if record is None and done.path.exists():
            raise BadConfiguration(
                f"'--out' must be a folder of this command alone (got {done.path.name}, which it did not "
                "write); name another folder"
            )
        if record is None:
            self._write()
            used = {whole_name(path) for path in self._files}
        else:
            used = set(record.files)
            done.is_new = False
            done.found_late = [path.name for path in self._files if whole_name(path) not in used]
        if self._plan.deletes:
            for path in self._files:
                if whole_name(path) in used:
                    path.unlink(missing_ok=True)
                    done.deleted += 1
        return done

    def _write(self) -> None:
        plan, done = self._plan, self._done
        self._count_late_clicks()
        with ParquetHour(done.path, plan.schema) as file:
            for part, outcomes in self._outcomes():
                self._write_part(file, part, outcomes)
            self._write_rows(file)
            done.unknown_ads = self._columns.unknown_ads
            file.finish(
                HourRecord(
                    plan.bundle,
                    plan.window_seconds,
                    plan.rows,
                    [whole_name(path) for path in self._files],
                    done.requests,
                    done.rows,
                    done.shown,
                    done.clicked,
                    done.unreadable,
                )
            )

    def _outcomes(self) -> Iterator[tuple[Part, Outcomes]]:
        """What is known of this hour's tokens, in as few parts as memory allows."""
        plan, end = self._plan, end_of(self._hour)
        made = range(end - HOUR_MS - LATE_LINES_MS, end + GRACE_MS)
        files = [
            path
            for hour, paths in sorted(self._events.items())
            if end_of(hour) > made.start and end_of(hour) - HOUR_MS <= end + plan.window_ms + GRACE_MS
            for path in paths
        ]
        yield from self._in_parts(files, made, Part())

    def _in_parts(self, files: Sequence[Path], made: range, part: Part) -> Iterator[tuple[Part, Outcomes]]:
        plan = self._plan
        try:
            found = read_outcomes(EventReader(), files, made, plan.window_ms, part, plan.max_tokens)
        except TooMany:
            for half in part.halves():
                yield from self._in_parts(files, made, half)
        else:
            yield part, found

    def _count_late_clicks(self) -> None:
        """Count clicks that came in this hour, after their window, or for hours that were closed."""
        window, reader = self._plan.window_ms, EventReader()
        began = end_of(self._hour) - HOUR_MS
        for path in self._events.get(self._hour, ()):
            for events in reader.read(path):
                closed = (events.made_ms // HOUR_MS + 1) * HOUR_MS + window + GRACE_MS
                is_late = (events.delays_ms > window) | (closed < began)
                self._done.late_clicks += int(np.count_nonzero(events.is_click & is_late))
        self._done.unreadable_events = reader.unreadable

    def _write_part(self, file: ParquetHour, part: Part, outcomes: Outcomes) -> None:
        for path in self._files:
            for lines in read_lines(path, EXAMPLES_AT_ONCE):
                found = [example for example in map(read_line, lines) if example is not None]
                if not part.number:  # each part reads all lines
                    self._done.unreadable += len(lines) - len(found)
                    self._done.requests += len(found)
                self._add(found, part, outcomes)
                if len(self._columns) >= GROUP_ROWS:
                    self._write_rows(file)

    def _add(self, examples: Sequence[ReadExample], part: Part, outcomes: Outcomes) -> None:
        """Add the rows of some examples whose tokens are of this part."""
        tokens = read_unverified([token for example in examples for token in example.tokens])
        shown, clicked = outcomes.find(tokens.hashes)
        is_row = part.has(tokens.hashes)
        if self._plan.rows == "shown":
            is_row &= (shown != NEVER) | (clicked != NEVER)
        start = 0
        for example in examples:
            rows = slice(start, start + len(example.tokens))
            start = rows.stop
            chosen = np.flatnonzero(is_row[rows]).tolist()
            if not chosen:
                continue
            judged = Judged(
                shown[rows],
                clicked[rows],
                tokens.made_ms[rows],
                tokens.log_odds[rows],
                tokens.is_explored[rows],
            )
            try:
                self._columns.add(example, chosen, judged)
            except ServiceError:  # it would have been refused: the line was changed since
                self._done.unreadable += 1

    def _write_rows(self, file: ParquetHour) -> None:
        columns, done = self._columns, self._done
        if len(columns):
            done.rows += len(columns)
            done.shown += sum(columns.values[SHOWN])
            done.clicked += sum(columns.values[CLICKED])
            file.write(columns.values)
            columns.clear()
