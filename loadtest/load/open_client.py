"""The open loop in a process of its own, on a core of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from loadtest.load.closed_loop import MeasurementError
from loadtest.processes.machine import pinned
from loadtest.processes.server import REPOSITORY, Server

Figures = dict[str, float]


@dataclass(frozen=True)
class OpenLoad:
    """What `loadtest.load.open_loop` is told; rates are a second, None is no limit."""

    rate: float
    seconds: float
    connections: int
    seed: int = 0
    drain_seconds: float = 2.0
    give_up_ms: float | None = None
    within_ms: float | None = None

    def command(self, server: Server, bodies: Path) -> list[str]:
        """Its command line."""
        words = [sys.executable, "-m", "loadtest.load.open_loop", server.url, "--bodies", str(bodies)]
        words += ["--path", server.route.path, "--rate", f"{self.rate:.3f}", "--seed", str(self.seed)]
        words += ["--seconds", f"{self.seconds:g}", "--connections", str(self.connections)]
        words += ["--drain-seconds", f"{self.drain_seconds:g}"]
        words += [f"--header={name}: {value}" for name, value in server.route.headers.items()]
        for flag, value in (("--give-up-ms", self.give_up_ms), ("--within-ms", self.within_ms)):
            words += [] if value is None else [flag, f"{value:g}"]
        return words


@contextmanager
def sending(
    load: OpenLoad, server: Server, bodies: Path, core: int | None
) -> Iterator[Callable[[], Figures]]:
    """The load while the block runs; what it yields waits for the end and returns the figures.

    That raises MeasurementError. A load that nobody waits for ends with the block.
    """
    process = subprocess.Popen(
        [*pinned(core), *load.command(server, bodies)],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )

    def figures() -> Figures:
        output, errors = process.communicate()
        if process.returncode != 0:
            raise MeasurementError((errors or output).strip()[-300:])
        found: Figures = json.loads(output)
        return found

    with process:
        try:
            yield figures
        finally:
            process.kill()


def send(load: OpenLoad, server: Server, bodies: Path, core: int | None) -> Figures:
    """A whole run. Raises MeasurementError."""
    with sending(load, server, bodies, core) as figures:
        return figures()
