"""Follows a page of examples/ as a reader would: its commands in order, in a folder of their own.

Only what would collide with the machine differs: the service gets a free port, and a Redis that runs already
stands in for the page's. `python -m export` runs in this process, which need not import torch again. A
reader takes longer to the next command than a reload does, so it is waited for.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from tests.exporting import export
from tests.pages import REPOSITORY, Page
from tests.redis_server import RedisServer
from tests.running import RunningService, running_service

RELOADS = 'bidlight_reloads_total{outcome="ok"}'
SECONDS_TO_RELOAD = 60.0
EXPORT = ["python", "-m", "export"]
SERVICE, HOST, REDIS = ["python", "-m", "service"], "localhost:8000", "redis://localhost:6379"


@dataclass(frozen=True)
class Step:
    """A command that ended well, and what it printed."""

    program: str
    output: str


@dataclass(frozen=True)
class Shop:
    """A folder with the shop's log and bundle, and what the steps to them printed."""

    folder: Path
    steps: list[Step]


def follow(
    page: str,
    folder: Path,
    *,
    without: str = "",
    options: tuple[str, ...] = (),
    redis: RedisServer | None = None,
) -> list[Step]:
    """The steps of `page`, a path from the root; services that it starts are stopped afterwards.

    Commands of the program `without` are left out; `options` are added to those of a service.
    """
    steps = []
    address = REDIS if redis is None else redis.url
    host = HOST
    service: RunningService | None = None
    with ExitStack() as stack:
        for words in Page(page).commands():
            words = [word.replace(REDIS, address).replace(HOST, host) for word in words]
            if words[:3] == SERVICE:
                arguments = [word.replace("=artifacts/", f"={folder}/artifacts/") for word in words[3:]]
                at = arguments.index("--port")
                service = stack.enter_context(
                    running_service(folder, [*arguments[:at], *arguments[at + 2 :], *options])
                )
                host = f"localhost:{service.port}"
            elif words[:2] == ["kill", "-HUP"]:
                assert service is not None, "a reload is of a service that runs"
                _reload(service)
            elif words[0] not in (without, "redis-server"):
                steps.append(Step(words[0], _run(words, folder)))
    return steps


def _reload(service: RunningService) -> None:
    """Send SIGHUP and wait until the bundles are served that it finds. Raises AssertionError."""
    before = service.metrics().get(RELOADS, 0.0)
    service.send_signal(signal.SIGHUP)
    deadline = time.monotonic() + SECONDS_TO_RELOAD
    while service.metrics().get(RELOADS, 0.0) == before:
        assert time.monotonic() < deadline, service.errors.read_text()
        time.sleep(0.05)


def _run(words: list[str], folder: Path) -> str:
    """What a command prints. Raises AssertionError with what it complains of."""
    if words[:3] == EXPORT:
        return export(*words[3:], folder=folder)
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(REPOSITORY),
        "OMP_NUM_THREADS": "1",
        "NO_PROXY": "localhost",
        "no_proxy": "localhost",
    }
    done = subprocess.run(words, capture_output=True, text=True, cwd=folder, env=environment)
    assert done.returncode == 0, f"{' '.join(words)}: {done.stderr}"
    return done.stdout
