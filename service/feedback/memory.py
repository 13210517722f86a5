"""What the processes of a service share of feedback, in memory that is mapped before they are forked.

It is anonymous, as that of counts is, but here every process writes: whoever does holds a record lock on a
file without a name. The kernel releases it when a process ends, however that ends. Nobody waits for it within
a call, since its holder may have been stopped.

    memory = header | table | table | table | sources

Whatever has 8 bytes is aligned to them and written whole. BUSY is set as long as somebody writes to tables:
who finds it set knows that a process has died there. This module knows no event.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress

import numpy as np
from numpy.typing import NDArray

from service.calibration.hours import HourMemory
from service.calibration.memory import LiveMemory
from service.errors import BadConfiguration
from service.feedback.shadow_table import ShadowTable
from service.feedback.tokens import Source
from service.settings import Settings

HEADER_BYTES = 4096
TABLES = 3
# The last sources of a service are known: of so many reloads, arms and variants, tokens are read.
SOURCES, SOURCE_BYTES = 256, 1024

# Words of the header.
BUSY, ERA, PREVIOUS_START, NEWEST, CLEARED, SOURCES_ADDED = range(6)
USED = 8  # and the two behind it


class EventMemory:
    """Three tables of words, each for `events` events at least; processes that fork later share them.

    `live` is what they share of live calibration, None without it; `hours` are counts for those who look;
    `shadows` is what shadows said of candidates. Raises BadConfiguration where there is not so much memory.
    """

    def __init__(
        self,
        events: int,
        live: LiveMemory | None = None,
        hours: HourMemory | None = None,
        shadows: ShadowTable | None = None,
    ) -> None:
        self.live = live
        self.shadows = shadows
        self.hours = hours
        # A power of two, half of which stays free: look-ups are short.
        self.slots = 1 << (2 * events - 1).bit_length()
        table_bytes = 8 * self.slots
        size = HEADER_BYTES + TABLES * table_bytes + SOURCES * SOURCE_BYTES
        try:
            self._memory = mmap.mmap(-1, size)
        except (OSError, OverflowError) as error:
            raise BadConfiguration(
                f"'max_attributed_events' must be so many that there is memory for them (got {events}, for "
                f"which {size} bytes are needed: {error}); state fewer"
            ) from None
        words = np.frombuffer(self._memory, np.uint64, (size - SOURCES * SOURCE_BYTES) // 8)
        self.header: NDArray[np.uint64] = words[: HEADER_BYTES // 8]
        self.tables: NDArray[np.uint64] = words[HEADER_BYTES // 8 :].reshape(TABLES, self.slots)
        self.header[CLEARED] = self.slots
        self._sources_at = size - SOURCES * SOURCE_BYTES
        self._lock_file = _file_without_name()
        self._open_files = [self._lock_file]
        self._known: dict[int, Source] = {}
        self._sources_read = 0
        self._unshared: list[Source] = []

    def keep_open(self, file: int) -> None:
        """Close this descriptor with the others."""
        self._open_files.append(file)

    def close(self) -> None:
        """Close what this process has open for it."""
        while self._open_files:
            os.close(self._open_files.pop())

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock meanwhile, which no other process has then. Raises BlockingIOError if one has it."""
        try:
            fcntl.lockf(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except PermissionError as error:  # which some systems say instead
            raise BlockingIOError from error
        try:
            yield
        finally:
            fcntl.lockf(self._lock_file, fcntl.LOCK_UN)

    @property
    def sources(self) -> dict[int, Source]:
        """The sources of tokens by number: those that any process has served of late."""
        added = int(self.header[SOURCES_ADDED])
        if added != self._sources_read:
            # Not the oldest one: another process may write there.
            for place in range(max(self._sources_read, added - SOURCES + 1), added):
                source = self._source_at(place)
                self._known[source.number] = source
            self._sources_read = added
        return self._known

    def add_sources(self, sources: Iterable[Source]) -> None:
        """Know these sources; `share_sources` lets other processes know them."""
        known = self.sources
        new = [source for source in sources if source.number not in known]
        known.update((source.number, source) for source in new)
        self._unshared += new

    def share_sources(self) -> None:
        """Let other processes know what was added, unless one of them has the lock; then try again later."""
        with suppress(BlockingIOError):
            while self._unshared:
                with self.locked():
                    self._share(self._unshared[-1])
                self._unshared.pop()

    def _share(self, source: Source) -> None:
        packed = source.pack()
        place = int(self.header[SOURCES_ADDED])
        if len(packed) > SOURCE_BYTES:
            return  # of such a name, it is known to those that serve it
        at = self._sources_at + place % SOURCES * SOURCE_BYTES
        self._memory[at : at + SOURCE_BYTES] = packed.ljust(SOURCE_BYTES, b"\0")
        self.header[SOURCES_ADDED] = place + 1

    def _source_at(self, place: int) -> Source:
        at = self._sources_at + place % SOURCES * SOURCE_BYTES
        return Source.unpack(self._memory[at : at + SOURCE_BYTES].rstrip(b"\0"))


def event_memory(settings: Settings, processes: int = 1) -> EventMemory:
    """What so many processes of these settings share. Raises BadConfiguration."""
    live = None
    if settings.live_calibration != "off":
        # While a reload replaces bundles, those of before are served too; those before them may come back.
        # Other machines may serve other ones.
        places = (6 if settings.feedback_store else 3) * len(settings.arms)
        live = LiveMemory(processes, places, settings.click_window_seconds)
    hours = HourMemory(processes, settings.arm_names)
    # Any arm may become a shadow later; until then its memory is not touched, and so not taken.
    shadows = ShadowTable(settings.max_attributed_events, settings.click_window_seconds)
    return EventMemory(settings.max_attributed_events, live, hours, shadows)


def _file_without_name() -> int:
    """The descriptor of an empty file, for its locks alone."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("bidlight-feedback")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
