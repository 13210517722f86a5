"""A wall clock in a file: a replay sets it, and the service that it starts reads it.

`python -m benchmarks.replays.clock FILE ...` is `python -m service ...`, whose wall clock is that of the
file. Nothing else of the service is replaced: it takes connections, batches and time limits by the monotonic
clock, which is the machine's. So days of a log pass in minutes, and half-lives and windows are what they are
in production.
"""

from __future__ import annotations

import mmap
import sys
import time
from collections.abc import Sequence
from pathlib import Path

_BYTES = 8


class Clock:
    """Unix time in milliseconds, in a file of 8 bytes. It stands still until it is set."""

    def __init__(self, path: Path, *, starts_at: int | None = None) -> None:
        self.path = path
        if starts_at is not None:
            path.write_bytes(starts_at.to_bytes(_BYTES, "little"))
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), _BYTES)

    def set(self, milliseconds: int) -> None:
        """Let it be this time."""
        self._memory[:] = milliseconds.to_bytes(_BYTES, "little")

    def nanoseconds(self) -> int:
        """What `time.time_ns` says."""
        return int.from_bytes(self._memory[:], "little") * 1_000_000

    def seconds(self) -> float:
        """What `time.time` says."""
        return 1e-9 * self.nanoseconds()


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve by the clock of a file; the exit status."""
    path, *others = sys.argv[1:] if arguments is None else arguments
    clock = Clock(Path(path))
    time.time, time.time_ns = clock.seconds, clock.nanoseconds
    from service.__main__ import main as serve  # modules may take these functions when they are imported

    return serve(others)


if __name__ == "__main__":
    sys.exit(main())
