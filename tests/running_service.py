"""The real service as a process on a free port, for tests that speak HTTP to it and send it signals."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

REPOSITORY = Path(__file__).parents[1]
SECONDS_TO_START = 60.0
SECONDS_TO_STOP = 30.0


@dataclass
class RunningService:
    """A service that was started, where it listens, and the files it writes to."""

    process: subprocess.Popen[bytes]
    port: int
    output: Path
    errors: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def connect(self) -> socket.socket:
        """A connection to it."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=20.0)

    def client(self, **options: object) -> httpx.Client:
        """A client of it; use it as a context."""
        return httpx.Client(base_url=self.url, timeout=20.0, trust_env=False, **options)  # type: ignore[arg-type]

    def send_signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self) -> int:
        """Its exit code."""
        return self.process.wait(SECONDS_TO_STOP)


@contextmanager
def running_service(folder: Path, arguments: Sequence[str]) -> Iterator[RunningService]:
    """`python -m service ...`, ready. What it writes goes to files in `folder`; it is gone afterwards."""
    service = start_service(folder, arguments)
    try:
        _wait_until_ready(service)
        yield service
    finally:
        if service.process.poll() is None:
            service.process.terminate()
            try:
                service.process.wait(SECONDS_TO_STOP)
            except subprocess.TimeoutExpired:
                service.process.kill()
                service.process.wait()


def start_service(folder: Path, arguments: Sequence[str]) -> RunningService:
    """Start it and wait for nothing."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    output, errors = folder / f"service.{port}.out", folder / f"service.{port}.err"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("BIDLIGHT_")}
    with output.open("wb") as out, errors.open("wb") as err:
        process = subprocess.Popen(
            [sys.executable, "-m", "service", *arguments, "--port", str(port)],
            stdout=out,
            stderr=err,
            cwd=REPOSITORY,
            env={**environment, "OMP_NUM_THREADS": "1"},
        )
    return RunningService(process, port, output, errors)


def metric_total(exposition: str, metric: str, /, **labels: str) -> float:
    """The sum of a metric's lines that have these labels."""
    return sum(
        float(line.rsplit(" ", 1)[1])
        for line in exposition.splitlines()
        if line.startswith(f"{metric}{{")
        and all(f'{name}="{value}"' in line for name, value in labels.items())
    )


def _wait_until_ready(service: RunningService) -> None:
    deadline = time.monotonic() + SECONDS_TO_START
    while time.monotonic() < deadline:
        if service.process.poll() is not None:
            break
        try:
            if httpx.get(f"{service.url}/readyz", timeout=5.0, trust_env=False).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.05)
    raise AssertionError(f"the service did not become ready; it wrote: {service.errors.read_text()[-2000:]}")
