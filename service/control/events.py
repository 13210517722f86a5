"""The log of what commands have changed: lines of JSON in a file that only grows; it knows no command."""

from __future__ import annotations

import os
from typing import Any

import msgspec

from service.errors import BadConfiguration


class Event(msgspec.Struct, frozen=True, omit_defaults=True):
    """A change: when (UTC), by which command and user (a uid), and what it changed of arms, by name."""

    time: str
    command: str
    user: int | None
    before: dict[str, Any]
    after: dict[str, Any]
    revision: int
    outcome: str = "ok"
    reason: str = ""


class EventLog:
    """Appends to `file`, which only its owner may read if it is new; empty: to none. Raises BadConfiguration.

    The file is opened anew for each event: it may be renamed at any time, and the next one begins another.
    """

    def __init__(self, file: str) -> None:
        self._file = file
        self._is_cut = False
        try:
            self._write(b"")
        except OSError as error:
            raise BadConfiguration(
                f"'control_log' must be a file that can be appended to (got {file!r}: "
                f"{error.strerror or error}); check its folder and owner"
            ) from None

    def append(self, event: Event) -> str:
        """Keep an event; why it is not kept, or an empty text. What it tells of has happened all the same."""
        try:
            self._write(msgspec.json.encode(event) + b"\n")
        except OSError as error:
            return f"it is not in {self._file}: {error.strerror or error}"
        return ""

    def _write(self, line: bytes) -> None:
        """Append a line with one write, so that those of several processes do not mix. Raises OSError."""
        if not self._file:
            return
        # A pipe that nobody reads must not be waited for.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
        descriptor = os.open(self._file, flags, 0o600)
        try:
            if line:
                line = b"\n" * self._is_cut + line
                self._is_cut = os.write(descriptor, line) < len(line)
        finally:
            os.close(descriptor)
        if self._is_cut:
            raise OSError("there is room for a part of it only")
