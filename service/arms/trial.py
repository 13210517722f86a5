"""Tries the bundles of a reload in a process that may die.

A load that hangs, crashes or is killed for its memory ends that process, and the arms that serve go on. The
process is nice, so that requests are answered meanwhile; when memory runs out it is the first to be killed;
and it ends by itself, whatever it does, soon after `load_seconds`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from service.arms.loading import in_thread, read_arms, start_arms, too_late
from service.errors import BadConfiguration
from service.settings import Settings

NICENESS = 10
# Python and its libraries start before anything is loaded.
STARTING_SECONDS = 30
FIRST_TO_KILL = "1000"


class Tried(msgspec.Struct, frozen=True):
    """What the process found: the digest of each arm's bundle, or why one is refused."""

    digests: tuple[str, ...] = ()
    refusal: str = ""


class Trial:
    """A process that loads the arms of `settings` whole, from their folders to their golden rows.

    Raises OSError where no process can be started.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._deadline = time.monotonic() + settings.load_seconds + STARTING_SECONDS
        # A session of its own: a terminal's Ctrl-C is for the service, which ends the trial.
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it has ended, and its status says how
            self._process.stdin.write(settings.model_dump_json().encode())
            self._process.stdin.close()

    def poll(self) -> Sequence[str] | None:
        """The digests of the bundles; None while they are tried. Raises BadConfiguration for a refusal."""
        status = self._process.poll()
        if status is None and time.monotonic() > self._deadline:
            self.stop()
            raise too_late(self._settings)
        return None if status is None else self._outcome(status)

    def wait(self) -> Sequence[str]:
        """The same, once it is known."""
        try:
            status = self._process.wait(self._deadline - time.monotonic())
        except subprocess.TimeoutExpired:
            self.stop()
            raise too_late(self._settings) from None
        return self._outcome(status)

    def stop(self) -> None:
        """End the process, whatever it does."""
        self._process.kill()
        with suppress(subprocess.TimeoutExpired):  # it may hang in the kernel, on a disk that is gone
            self._process.wait(1.0)
        self._close()

    def _outcome(self, status: int) -> Sequence[str]:
        output = self._process.stdout
        assert output is not None
        written = b"" if output.closed else output.read()
        self._close()
        if status == -signal.SIGALRM:
            raise too_late(self._settings)
        if status:
            how = f"status {status}" if status > 0 else signal.Signals(-status).name
            raise BadConfiguration(
                f"the bundles must load in a process of their own first (it ended with {how}); look for what "
                "killed it, memory perhaps, and export the bundles again"
            )
        tried = msgspec.json.decode(written, type=Tried)
        if tried.refusal:
            raise BadConfiguration(tried.refusal)
        return tried.digests

    def _close(self) -> None:
        if self._process.stdout is not None:
            self._process.stdout.close()


async def try_arms(settings: Settings) -> Sequence[str]:
    """The digests of the bundles in the arms' folders. Raises BadConfiguration for a refusal, OSError."""
    trial = Trial(settings)
    try:
        return await in_thread(trial.wait)
    finally:
        trial.stop()


def main() -> None:
    """Load the arms of the settings that standard input holds, and print what was found."""
    os.nice(NICENESS)
    with suppress(OSError):  # elsewhere the system chooses for itself
        Path("/proc/self/oom_score_adj").write_text(FIRST_TO_KILL)
    settings = Settings.model_validate_json(sys.stdin.buffer.read())
    # The system's own clock: it ends code that never comes back to Python, and the trial of a dead service.
    signal.alarm(settings.load_seconds)
    try:
        loaded = read_arms(settings)
        start_arms(settings, loaded)
        tried = Tried(tuple(arm.bundle.digest for arm in loaded))
    except BadConfiguration as error:
        tried = Tried(refusal=str(error))
    sys.stdout.buffer.write(msgspec.json.encode(tried))


if __name__ == "__main__":
    main()
