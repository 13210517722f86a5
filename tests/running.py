"""The service as tests run it: the application in this process, or a real process on a free port."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from loadtest.processes.ports import free_port
from service.http.app import create_app
from service.http.lifespan import PUBLISH_SECONDS
from service.settings import Settings

JSON = {"content-type": "application/json"}
MSGPACK = {"content-type": "application/msgpack"}

REPOSITORY = Path(__file__).parents[1]
SECONDS_TO_START = 60.0
SECONDS_TO_STOP = 30.0
ANY_WORKER = 20
"""Requests over new connections, of which each of two workers answers one (but once in 500,000 times)."""


class RunningApp:
    """The application in an event loop that the test runs; requests go through ASGI, not through a socket."""

    def __init__(self, settings: Settings, publish_seconds: float = PUBLISH_SECONDS) -> None:
        self.runner = asyncio.Runner()
        self.app = create_app(settings, publish_seconds=publish_seconds)
        self._lifespan = self.app.router.lifespan_context(self.app)
        self.runner.run(self._lifespan.__aenter__())
        transport = httpx.ASGITransport(self.app)
        self.client = httpx.AsyncClient(transport=transport, base_url="http://test")

    def post(self, body: Any, headers: dict[str, str] | None = None) -> httpx.Response:
        """POST /predict; a body other than bytes is sent as JSON."""
        if isinstance(body, bytes):
            return self.runner.run(self.client.post("/predict", content=body, headers=headers or JSON))
        return self.runner.run(self.client.post("/predict", json=body, headers=headers))

    def get(self, path: str) -> httpx.Response:
        """GET a path."""
        return self.runner.run(self.client.get(path))

    def metrics(self) -> dict[str, float]:
        """/metrics: `name{labels}` -> value."""
        return read_metrics(self.get("/metrics").text)

    def close(self) -> None:
        """Leave the lifespan."""
        self.runner.run(self.client.aclose())
        self.runner.run(self._lifespan.__aexit__(None, None, None))
        self.runner.close()


@dataclass
class RunningService:
    """A started service, the port it listens on, and the files of its output and errors.

    `tls` is what its clients trust and show, if it serves with TLS.
    """

    process: subprocess.Popen[bytes]
    port: int
    output: Path
    errors: Path
    tls: ssl.SSLContext | None = None

    @property
    def url(self) -> str:
        return f"{'http' if self.tls is None else 'https'}://127.0.0.1:{self.port}"

    @property
    def admin_url(self) -> str:
        """Where the routes of operation are, as its first line says; without one, on the port of bids."""
        found = re.findall(r"(http\S+)/docs describes it", self.output.read_text())
        return str(found[0]) if found else self.url

    def connect(self) -> socket.socket:
        """A new connection to it."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=20.0)
        return connection if self.tls is None else self.tls.wrap_socket(connection)

    def accepts(self) -> bool:
        """Whether it accepts connections.

        A worker that closes its socket can refuse one connection while another worker accepts the next.
        """
        for _ in range(3):
            with suppress(ConnectionError):
                self.connect().close()
                return True
        return False

    def client(self, **options: Any) -> httpx.Client:
        """A client of it; use it as a context.

        Without `verify=False` every client would load root certificates, which takes longer than a request.
        """
        given = {"base_url": self.url, "timeout": 20.0, "trust_env": False, "verify": self.tls or False}
        return httpx.Client(**{**given, **options})

    def post(self, body: Any) -> httpx.Response:
        """POST /predict over a new connection; a body other than bytes is sent as JSON."""
        content = body if isinstance(body, bytes) else None
        with self.client(headers=JSON) as client:
            return client.post("/predict", content=content, json=None if content is not None else body)

    def metrics(self) -> dict[str, float]:
        """/metrics: `name{labels}` -> value."""
        with self.client(base_url=self.admin_url) as client:
            return read_metrics(client.get("/metrics").text)

    def workers(self) -> set[int]:
        """The process ids of its workers."""
        return {child for child in self._children() if not _tries(child)}

    def trial(self) -> int:
        """The process that tries the bundles of a reload; 0 if there is none."""
        return next((child for child in self._children() if _tries(child)), 0)

    def _children(self) -> set[int]:
        parent = self.process.pid
        return set(map(int, Path(f"/proc/{parent}/task/{parent}/children").read_text().split()))

    def send_signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self) -> int:
        """Its exit code."""
        return self.process.wait(SECONDS_TO_STOP)

    def stop(self) -> int:
        """Send SIGTERM unless it has ended; its exit code."""
        if self.process.poll() is None:
            self.process.terminate()
        try:
            return self.wait()
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise


def _tries(process: int) -> bool:
    """Whether the process tries bundles."""
    with suppress(OSError):  # it has ended
        return b"service.arms.trial" in Path(f"/proc/{process}/cmdline").read_bytes()
    return False


@contextmanager
def running_service(
    folder: Path,
    arguments: Sequence[str],
    variables: Mapping[str, str] | None = None,
    tls: ssl.SSLContext | None = None,
) -> Iterator[RunningService]:
    """`python -m service ...`, ready; it writes to files in `folder` and is stopped at the end."""
    service = start_service(folder, arguments, variables)
    service.tls = tls
    try:
        _wait_until_ready(service)
        yield service
    finally:
        service.stop()


def start_service(
    folder: Path, arguments: Sequence[str], variables: Mapping[str, str] | None = None, redirected: str = ""
) -> RunningService:
    """Start it without waiting until it is ready; `redirected` is what a shell does to its streams."""
    port = free_port()
    output, errors = folder / f"service.{port}.out", folder / f"service.{port}.err"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("BIDLIGHT_")}
    shell = ["sh", "-c", f'exec "$@" {redirected}', "sh"] if redirected else []
    with output.open("wb") as out, errors.open("wb") as err:
        process = subprocess.Popen(
            [*shell, sys.executable, "-m", "service", "--port", str(port), *arguments],
            stdout=out,
            stderr=err,
            cwd=REPOSITORY,
            env={**environment, "OMP_NUM_THREADS": "1", **(variables or {})},
        )
    return RunningService(process, port, output, errors)


def read_metrics(text: str) -> dict[str, float]:
    """The samples of an exposition: `name{labels}` -> value."""
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def _wait_until_ready(service: RunningService) -> None:
    """Wait until it is ready and has printed its announcement."""
    deadline = time.monotonic() + SECONDS_TO_START
    with service.client() as client:
        while time.monotonic() < deadline and service.process.poll() is None:
            try:
                ready = client.get("/readyz").status_code == 200
            except httpx.TransportError:
                ready = False
            if ready and service.output.stat().st_size:
                return
            time.sleep(0.05)
    raise AssertionError(f"the service did not become ready; it wrote: {service.errors.read_text()[-2000:]}")
