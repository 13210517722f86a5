"""The log of events that were counted: JSON lines in a file an hour for each process, written by a thread.

It knows neither where events come from nor who reads the files; see service.feedback.restore.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec

from service.feedback.events import EventType
from service.feedback.tokens import now_ms

logger = logging.getLogger("bidlight")

# A file that is written to; it is renamed when it is whole.
PART, WHOLE = ".jsonl.part", ".jsonl"
_HOUR = "%Y-%m-%dT%H"
WRITE_SECONDS = 0.5
# Events beyond these wait for the disk no longer, and are lost.
MAX_QUEUED = 100_000
# So many are encoded at once; to write them lets requests go on.
EVENTS_AT_ONCE = 256
CLOSE_SECONDS = 5.0
WRITTEN, LOST = "written", "lost"


class LoggedEvent(msgspec.Struct, frozen=True, gc=False):
    """An event that was counted; `at` is when it happened, Unix time in milliseconds."""

    at: int
    type: EventType
    arm: str
    bundle: str
    variant: str
    pctr: float
    token: str


class EventLog:
    """Appends events to files in `folder`; `count` is told how many were WRITTEN or LOST.

    What waits is written twice a second, and the disk is asked to keep it. Where it cannot be written, events
    are lost and counted, and nothing else happens.
    """

    def __init__(self, folder: str, count: Callable[[str, int], object]) -> None:
        self._folder = Path(folder)
        self._count = count
        self._encode = msgspec.json.Encoder().encode
        self._lock = threading.Lock()
        self._queue: list[LoggedEvent] = []
        self._outcomes = {WRITTEN: 0, LOST: 0}
        self._closing = threading.Event()
        self._file: _LogFile | None = None
        self._files = 0
        self._thread = threading.Thread(target=self._run, name="bidlight-feedback", daemon=True)
        self._thread.start()

    def add(self, events: Sequence[LoggedEvent]) -> None:
        """Write these soon."""
        with self._lock:
            room = max(0, MAX_QUEUED - len(self._queue))
            self._queue += events[:room]
            self._outcomes[LOST] += max(0, len(events) - room)

    def publish(self) -> None:
        """Tell what became of events. The metrics belong to the thread that calls it."""
        with self._lock:
            outcomes, self._outcomes = self._outcomes, {WRITTEN: 0, LOST: 0}
        for outcome, number in outcomes.items():
            if number:
                self._count(outcome, number)

    def close(self) -> None:
        """Write what waits, and end the file."""
        self._closing.set()
        self._thread.join(CLOSE_SECONDS)

    def _run(self) -> None:
        while not self._closing.wait(WRITE_SECONDS):
            self._write_queue()
        self._write_queue()
        self._end_file()

    def _write_queue(self) -> None:
        with self._lock:
            events, self._queue = self._queue, []
        written = 0
        try:
            for start in range(0, len(events), EVENTS_AT_ONCE):
                some = events[start : start + EVENTS_AT_ONCE]
                self._file_of_now().write(b"".join([self._encode(event) + b"\n" for event in some]))
                written += len(some)
            if events:
                self._file_of_now().keep()
        except OSError as error:
            logger.error("events of feedback are lost: %s cannot be written (%s)", self._folder, error)
            self._end_file()  # half a line may be at its end
        with self._lock:
            self._outcomes[WRITTEN] += written
            self._outcomes[LOST] += len(events) - written

    def _file_of_now(self) -> _LogFile:
        """The file of this hour. Raises OSError."""
        hour = datetime.fromtimestamp(now_ms() / 1000, UTC).strftime(_HOUR)
        if self._file is None or self._file.hour != hour:
            self._end_file()
            self._files += 1
            name = f"events-{hour}-{os.getpid()}-{now_ms()}-{self._files}"
            self._file = _LogFile(self._folder / name, hour)
        return self._file

    def _end_file(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            with suppress(OSError):  # it is found as one that was cut off
                file.end()


class _LogFile:
    """A file of one hour. Raises OSError."""

    def __init__(self, path: Path, hour: str) -> None:
        self.hour = hour
        self._part, self._whole = Path(f"{path}{PART}"), Path(f"{path}{WHOLE}")
        self._descriptor = os.open(self._part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o644)

    def write(self, lines: bytes) -> None:
        """Append whole lines."""
        left = memoryview(lines)
        while left:
            left = left[os.write(self._descriptor, left) :]

    def keep(self) -> None:
        """Return when the disk has it."""
        os.fsync(self._descriptor)

    def end(self) -> None:
        """Nothing more will come."""
        os.close(self._descriptor)
        self._part.rename(self._whole)


def end_ms_of(path: Path) -> int:
    """When the hour of a file of the log ends, Unix time in milliseconds; 0 for any other file."""
    if not path.name.startswith("events-") or not path.name.endswith((PART, WHOLE)):
        return 0
    try:
        hour = datetime.strptime(path.name[7:20], _HOUR).replace(tzinfo=UTC)
    except ValueError:
        return 0
    return 1000 * int((hour + timedelta(hours=1)).timestamp())
