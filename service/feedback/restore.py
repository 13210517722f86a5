"""What a service remembers of the events that it counted before it was started: its log, read again.

It knows no process: who calls it does so before events come.
"""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from service.errors import BadConfiguration
from service.feedback.events import CLICK
from service.feedback.hourly_log import PART, whole_name
from service.feedback.keys import read_keys
from service.feedback.log import LINES_AT_ONCE, LoggedEvent, end_ms_of, read_events
from service.feedback.memory import EventMemory
from service.feedback.tokens import SKEW_MS, Reason, Source, TokenReader, now_ms
from service.feedback.window import EventWindow, fingerprints_of
from service.metrics.families import Metrics
from service.settings import Settings

logger = logging.getLogger("bidlight")

LOCK_FILE = "lock"
RESTORED, UNREADABLE = "restored", "unreadable"

_decode = msgspec.json.Decoder(LoggedEvent).decode


def restore_events(settings: Settings, memory: EventMemory, metrics: Metrics) -> None:
    """Let the memory know the events of the log, if there is one, and keep its folder for this service.

    Raises BadConfiguration.
    """
    if settings.feedback_log:
        folder = Path(settings.feedback_log)
        memory.keep_open(_locked(folder))
        _Restoring(settings, memory).run(folder, metrics)


def _locked(folder: Path) -> int:
    """A file that keeps the folder for this process and those that it forks, as long as one has it open.

    Raises BadConfiguration.
    """
    try:
        descriptor = os.open(folder / LOCK_FILE, os.O_WRONLY | os.O_CREAT, 0o644)
    except OSError as error:
        raise _refusal(folder, "can be written to", error.strerror or str(error)) from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if isinstance(error, BlockingIOError):
            raise _refusal(folder, "no other service writes to", "one that another service has") from None
        # Some mounts have none.
        raise _refusal(folder, "has locks", error.strerror or str(error)) from None
    return descriptor


def _refusal(folder: Path, expected: str, found: str) -> BadConfiguration:
    return BadConfiguration(
        f"'feedback_log' must be a folder that {expected} (got {str(folder)!r}: {found}); make one for this "
        "service alone"
    )


class _Restoring:
    """Adds the events of log files to a memory, the newest first, as many as a generation holds."""

    def __init__(self, settings: Settings, memory: EventMemory) -> None:
        self._memory = memory
        self._now = now_ms()
        self._age_ms = 1000 * settings.attribution_seconds
        self._window = EventWindow(memory, self._age_ms)
        self._reader = TokenReader(read_keys(settings.feedback_keys))
        self._prints: list[NDArray[np.uint64]] = []
        self._made_ms: list[NDArray[np.int64]] = []
        self._found = 0
        self._unreadable = 0
        self._unread_until_ms = 0

    def run(self, folder: Path, metrics: Metrics) -> None:
        """Restore, count and log what was found. Raises BadConfiguration."""
        try:
            files = self._files_in(folder)
            self._read_hours(files)
            cut = [file for file in files if file.name.endswith(PART)]
            for file in cut:
                file.rename(file.with_name(whole_name(file)))
        except OSError as error:
            raise _refusal(folder, "can be read", error.strerror or str(error)) from None
        restored = self._add()
        metrics.log_events.labels(RESTORED).inc(restored)
        metrics.log_events.labels(UNREADABLE).inc(self._unreadable)
        metrics.log_cuts.labels().inc(len(cut))
        logger.info("feedback: %d events of before count no more, from %d files", restored, len(files))
        if cut:
            logger.warning(
                "feedback: %d files of %s were not closed, since their processes were killed: of each, the "
                "last second of events may be missing, which count again if they are sent again",
                len(cut),
                folder,
            )

    def _files_in(self, folder: Path) -> list[Path]:
        """The files with events of tokens that are still taken, the newest first."""
        # A token may be of a later time than the file, by a clock that was ahead.
        oldest = self._now - self._age_ms - SKEW_MS
        found = [path for path in folder.iterdir() if end_ms_of(path) >= oldest]
        return sorted(found, key=end_ms_of, reverse=True)

    def _read_hours(self, files: Iterable[Path]) -> None:
        """Read whole hours, until there are as many events as are kept."""
        for end_ms, of_hour in groupby(files, end_ms_of):
            if self._found >= self._memory.slots // 2:
                # The tokens of its events were made before its end, by a clock that may be ahead.
                self._unread_until_ms = end_ms + SKEW_MS
                return
            for file in of_hour:
                self._read(file)

    def _read(self, path: Path) -> None:
        for events, unreadable in read_events(path, _decode):
            self._unreadable += unreadable
            self._take(events)

    def _take(self, events: list[LoggedEvent]) -> None:
        sources = {Source(event.arm, event.bundle, event.variant) for event in events}
        self._memory.add_sources(sources)
        tokens = self._reader.read(
            [event.token for event in events], self._memory.sources, self._now, self._age_ms
        )
        is_click = np.array([event.type == CLICK for event in events], bool)
        is_ok = tokens.reasons == Reason.OK
        self._prints.append(fingerprints_of(tokens.hashes[is_ok], is_click[is_ok]))
        self._made_ms.append(tokens.made_ms[is_ok])
        self._found += int(np.count_nonzero(is_ok))

    def _add(self) -> int:
        """Add what was found to the window; how many events that are."""
        self._memory.share_sources()
        if not self._found:
            return 0
        prints, made_ms = np.concatenate(self._prints), np.concatenate(self._made_ms)
        newest = np.argsort(-made_ms, kind="stable")[: self._memory.slots // 2]
        for start in range(0, len(newest), LINES_AT_ONCE):
            some = newest[start : start + LINES_AT_ONCE]
            self._window.add(prints[some], made_ms[some], self._now)
        if len(newest) < len(made_ms):
            self._window.refuse_before(int(made_ms[newest[-1]]) + 1)
        self._window.refuse_before(self._unread_until_ms)
        return len(newest)
