"""The log of events that were counted: JSON lines in a file an hour for each process, written by a thread.

It knows neither where events come from nor who reads the files; see service.feedback.restore.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import msgspec

from service.feedback.events import EventType
from service.feedback.hourly_log import HourlyLog, LogForm, end_of, hour_of, read_lines

NAME = "events"
# Events beyond these wait for the disk no longer, and are lost.
MAX_QUEUED = 100_000
# So many are encoded at once, and read.
EVENTS_AT_ONCE, LINES_AT_ONCE = 256, 4096

Decoded = TypeVar("Decoded")


class LoggedEvent(msgspec.Struct, frozen=True, gc=False):
    """An event that was counted; `at` is when it happened, Unix time in milliseconds."""

    at: int
    type: EventType
    arm: str
    bundle: str
    variant: str
    pctr: float
    token: str


_encode = msgspec.json.Encoder().encode


class EventLog(HourlyLog[LoggedEvent]):
    """Appends events to files in `folder`; `count` is told how many were WRITTEN or LOST."""

    def __init__(self, folder: str, count: Callable[[str, int], object]) -> None:
        form = LogForm(NAME, "events of feedback", _encode, lambda _: 1, MAX_QUEUED, EVENTS_AT_ONCE)
        super().__init__(folder, form, count)


def read_events(path: Path, decode: Callable[[bytes], Decoded]) -> Iterator[tuple[list[Decoded], int]]:
    """What `decode` makes of the lines of a file, some thousand at once, and how many of these are no events.

    Raises OSError.
    """

    def event_or_none(line: bytes) -> Decoded | None:
        try:
            return decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError):  # half a line, of a disk that was full
            return None

    for lines in read_lines(path, LINES_AT_ONCE):
        events = [event for event in map(event_or_none, lines) if event is not None]
        yield events, len(lines) - len(events)


def end_ms_of(path: Path) -> int:
    """When the hour of a file of the log ends, Unix time in milliseconds; 0 for any other file."""
    hour = hour_of(path, NAME)
    return 0 if hour is None else end_of(hour)
