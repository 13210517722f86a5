"""The log of events that were counted: JSON lines in a file an hour for each process, written by a thread.

It knows neither where events come from nor who reads the files; see service.feedback.restore.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from service.feedback.events import EventType
from service.feedback.hourly_log import HourlyLog, LogForm, end_of, hour_of

NAME = "events"
# Events beyond these wait for the disk no longer, and are lost.
MAX_QUEUED = 100_000
# So many are encoded at once.
EVENTS_AT_ONCE = 256


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


def end_ms_of(path: Path) -> int:
    """When the hour of a file of the log ends, Unix time in milliseconds; 0 for any other file."""
    hour = hour_of(path, NAME)
    return 0 if hour is None else end_of(hour)
