"""A log of lines that a thread appends to a file an hour, for each process files of its own.

It knows neither what the lines say nor who reads the files. What waits is written twice a second, and the
disk is asked to keep it. Where it cannot be written, lines are lost and counted, and nothing else happens.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import accumulate, islice
from pathlib import Path
from typing import BinaryIO, Generic, TypeVar

from service.feedback.tokens import now_ms

logger = logging.getLogger("bidlight")

# A file that is written to; it is renamed when it is whole.
PART, WHOLE = ".jsonl.part", ".jsonl"
_HOUR = "%Y-%m-%dT%H"
_HOUR_CHARACTERS = 13
WRITE_SECONDS = 0.5
# A disk that hangs keeps no service from its end for longer.
CLOSE_SECONDS = 5.0
WRITTEN, LOST = "written", "lost"

Line = TypeVar("Line")


@dataclass(frozen=True)
class LogForm(Generic[Line]):
    """What a log is of, how a line of it is written, and how much of it may wait.

    `encode` gives the bytes of a line without its end, none for what no line can say, which is lost. `weigh`
    says what a line takes: of more than `max_queued` together, those that come last are lost; about `at_once`
    are encoded at a time, since that lets no request go on, and to write them does. `mode` is that of files.
    """

    name: str
    what: str
    encode: Callable[[Line], bytes]
    weigh: Callable[[Line], int]
    max_queued: int
    at_once: int
    mode: int = 0o644


class HourlyLog(Generic[Line]):
    """Appends lines to files in `folder`; `count` is told how many were WRITTEN or LOST."""

    def __init__(self, folder: str, form: LogForm[Line], count: Callable[[str, int], object]) -> None:
        self._folder = Path(folder)
        self._form = form
        self._count = count
        self._lock = threading.Lock()
        self._queue: list[Line] = []
        self._queued = 0
        self._outcomes = {WRITTEN: 0, LOST: 0}
        self._closing = threading.Event()
        self._file: _LogFile | None = None
        self._files = 0
        self._is_failing = False
        self._thread = threading.Thread(target=self._run, name=f"bidlight-{form.name}", daemon=True)
        self._thread.start()

    def add(self, lines: Sequence[Line]) -> None:
        """Write these soon."""
        weights = [*map(self._form.weigh, lines)]
        with self._lock:
            room = self._form.max_queued - self._queued
            if sum(weights) > room:
                fitting = sum(total <= room for total in accumulate(weights))
                self._outcomes[LOST] += len(lines) - fitting
                lines, weights = lines[:fitting], weights[:fitting]
            self._queue += lines
            self._queued += sum(weights)

    def publish(self) -> None:
        """Tell what became of lines. The metrics belong to the thread that calls it."""
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
            lines, self._queue = self._queue, []
            taken = self._queued  # in memory until they are written: no others have their room yet
        if not lines:
            if self._file is not None and self._file.hour != _hour_of_now():
                self._end_file()  # nothing more comes into it
            return
        written = 0
        try:
            for some in self._portions(lines):
                encoded = [*filter(None, map(self._form.encode, some))]
                self._file_of_now().write(b"\n".join([*encoded, b""]))
                written += len(encoded)
        except OSError as error:
            self._give_up_file(error)  # half a line may be at its end
        if self._file is not None:
            try:
                self._file.keep()
                self._is_failing = False
            except OSError as error:
                self._give_up_file(error)
                written = 0
        with self._lock:
            self._queued -= taken
            self._outcomes[WRITTEN] += written
            self._outcomes[LOST] += len(lines) - written

    def _portions(self, lines: Sequence[Line]) -> Iterator[Sequence[Line]]:
        """The lines in order, in portions that are encoded at once."""
        start = weight = 0
        for stop, line in enumerate(lines, 1):
            weight += self._form.weigh(line)
            if weight >= self._form.at_once or stop == len(lines):
                yield lines[start:stop]
                start, weight = stop, 0

    def _give_up_file(self, error: OSError) -> None:
        if not self._is_failing:  # a metric counts what is lost; a line at each try would fill the log
            logger.error("%s are lost: %s cannot be written (%s)", self._form.what, self._folder, error)
        self._is_failing = True
        self._end_file()

    def _file_of_now(self) -> _LogFile:
        """The file of this hour. Raises OSError."""
        hour = _hour_of_now()
        if self._file is None or self._file.hour != hour:
            self._end_file()
            self._files += 1
            name = f"{self._form.name}-{hour}-{os.getpid()}-{now_ms()}-{self._files}"
            self._file = _LogFile(self._folder / name, hour, self._form.mode)
        return self._file

    def _end_file(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            with suppress(OSError):  # it is found as one that was cut off
                file.end()


class _LogFile:
    """A file of one hour. Raises OSError."""

    def __init__(self, path: Path, hour: str, mode: int) -> None:
        self.hour = hour
        self._part, self._whole = Path(f"{path}{PART}"), Path(f"{path}{WHOLE}")
        self._descriptor = os.open(self._part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, mode)

    def write(self, lines: bytes) -> None:
        """Append whole lines."""
        left = memoryview(lines)
        while left:
            left = left[os.write(self._descriptor, left) :]

    def keep(self) -> None:
        """Return when the disk has it."""
        os.fsync(self._descriptor)
        if os.fstat(self._descriptor).st_nlink == 0:  # it has no name by now, and ends with its descriptor
            raise FileNotFoundError(errno.ENOENT, "the file was removed", str(self._part))

    def end(self) -> None:
        """Nothing more will come."""
        is_empty = os.fstat(self._descriptor).st_size == 0
        os.close(self._descriptor)
        if is_empty:  # a disk that is full has room for names, two a second
            self._part.unlink()
        else:
            self._part.rename(self._whole)


def _hour_of_now() -> str:
    return datetime.fromtimestamp(now_ms() / 1000, UTC).strftime(_HOUR)


def hour_of(path: Path, name: str) -> datetime | None:
    """When the hour of a file of the log of that name begins; None for any other file."""
    if not path.name.startswith(f"{name}-") or not path.name.endswith((PART, WHOLE)):
        return None
    start = len(name) + 1
    try:
        return datetime.strptime(path.name[start : start + _HOUR_CHARACTERS], _HOUR).replace(tzinfo=UTC)
    except ValueError:
        return None


def whole_name(path: Path) -> str:
    """What a file of a log is called once nothing more comes, whatever it is called now."""
    return path.name.removesuffix(PART) + WHOLE if path.name.endswith(PART) else path.name


def read_lines(path: Path, at_once: int) -> Iterator[list[bytes]]:
    """The lines of a file, so many at once. It may have become whole since it was found. Raises OSError."""
    with _open(path) as lines:
        while some := [*islice(lines, at_once)]:
            yield some


def _open(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except FileNotFoundError:
        return path.with_name(whole_name(path)).open("rb")


def end_of(hour: datetime) -> int:
    """When an hour ends, Unix time in milliseconds."""
    return 1000 * int((hour + timedelta(hours=1)).timestamp())
