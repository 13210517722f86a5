"""The application with its lifespan entered, and the service as a process, for tests to drive."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import threading
from typing import Any

import httpx

from service.app import create_app
from service.settings import Settings

JSON = {"content-type": "application/json"}
MSGPACK = {"content-type": "application/msgpack"}


class RunningApp:
    """The application in a loop that the test drives; requests go through ASGI, not through a socket."""

    def __init__(self, settings: Settings) -> None:
        self.runner = asyncio.Runner()
        self.app = create_app(settings)
        self._lifespan = self.app.router.lifespan_context(self.app)
        self.runner.run(self._lifespan.__aenter__())
        transport = httpx.ASGITransport(self.app)  # type: ignore[arg-type]
        self.client = httpx.AsyncClient(transport=transport, base_url="http://test")

    def post(self, body: Any, headers: dict[str, str] | None = None) -> httpx.Response:
        """POST /predict; a body that is no bytes is sent as JSON."""
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


class ServiceProcess:
    """`python -m service` on a free port; `url` is known once it says that it serves."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "service", "--port", "0", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self.errors: list[str] = []
        self._reader = threading.Thread(target=self._read_errors, daemon=True)
        self._reader.start()
        self.announcement = self.process.stdout.readline()
        found = re.search(r"http://\S+:(\d+)", self.announcement)
        self.port = int(found[1]) if found else 0
        self.url = f"http://127.0.0.1:{self.port}"

    def _read_errors(self) -> None:
        assert self.process.stderr is not None
        self.errors.extend(self.process.stderr)

    def stop(self) -> int:
        """SIGTERM, and the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(timeout=20)
        self._reader.join(timeout=5)
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self.process.stdout.close()
        self.process.stderr.close()
        return status


def read_metrics(text: str) -> dict[str, float]:
    """The samples of an exposition."""
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}
