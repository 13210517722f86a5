"""A server under test: starts it on a free port, waits until it is ready, pauses, resumes and stops it."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from loadtest.processes import tree
from loadtest.processes.machine import pinned
from loadtest.processes.ports import free_port

REPOSITORY = Path(__file__).parents[2]
SECONDS_TO_STOP = 10.0


class ServerError(RuntimeError):
    """The server ended, or was not ready in time; the message ends with what it last wrote."""


@dataclass(frozen=True)
class Route:
    """The path of bid requests, additional headers, and how an answer is read."""

    path: str = "/predict"
    headers: Mapping[str, str] = field(default_factory=dict)
    read: Callable[[bytes], Any] = json.loads


PREDICT = Route()


@dataclass(frozen=True)
class Server:
    """A running server: its URL, first process, file of output, route, and the core that holds it."""

    url: str
    process_id: int
    output: Path
    route: Route = PREDICT
    core: int | None = None

    def post(self, body: bytes, seconds: float = 10.0) -> tuple[int, bytes]:
        """The status and the body of the answer to one bid request. Raises OSError."""
        headers = {"Content-Type": "application/json", **self.route.headers}
        return self._request("POST", self.route.path, body, headers, seconds)

    def get(self, path: str, seconds: float = 10.0) -> tuple[int, bytes]:
        """The status and the body of the answer to GET. Raises OSError."""
        return self._request("GET", path, None, {}, seconds)

    def _request(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str], seconds: float
    ) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=seconds)
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return response.status, response.read()
        except http.client.HTTPException as error:
            raise ConnectionError(repr(error)) from None
        finally:
            connection.close()

    def cpu_seconds(self) -> float | None:
        """Processor time that all its processes have used so far; None where the system does not say."""
        return tree.cpu_seconds(tree.members(self.process_id))

    def memory_mb(self) -> float | None:
        """Resident memory of all its processes, shared pages once; None where the system does not say."""
        return tree.memory_mb(tree.members(self.process_id))

    def last_output(self, characters: int = 500) -> str:
        """The end of what it has written."""
        return self.output.read_bytes().decode("utf-8", "replace").strip()[-characters:]

    def pause(self) -> None:
        """Stop all its processes until they are resumed."""
        tree.send(tree.members(self.process_id), signal.SIGSTOP)

    def resume(self) -> None:
        """Continue all its processes, on its core: those started since are held there too."""
        processes = tree.members(self.process_id)
        if self.core is not None:
            tree.hold(processes, self.core)
        tree.send(processes, signal.SIGCONT)


def says_ready(server: Server) -> bool:
    """Whether GET /readyz is answered 200."""
    try:
        return server.get("/readyz", 2.0)[0] == 200
    except OSError:
        return False


@contextmanager
def running(
    module: str,
    arguments: Sequence[str],
    *,
    python: str | Path = sys.executable,
    environment: Mapping[str, str] | None = None,
    route: Route = PREDICT,
    core: int | None = None,
    is_ready: Callable[[Server], bool] = says_ready,
    seconds: float = 60.0,
) -> Iterator[Server]:
    """`python -m module ... --port PORT`, ready; all its processes are gone afterwards.

    `core` holds them on one core, if taskset is installed. Raises ServerError unless it is ready within
    `seconds`.
    """
    port = free_port()
    command = [str(python), "-m", module, *arguments, "--port", str(port)]
    prefix = pinned(core)
    with tempfile.NamedTemporaryFile() as output:
        process = subprocess.Popen(
            [*prefix, *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=REPOSITORY,
            env={**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})},
            start_new_session=True,
        )
        server = Server(
            f"http://127.0.0.1:{port}", process.pid, Path(output.name), route, core if prefix else None
        )
        try:
            if not _wait_until(is_ready, server, process, seconds):
                ended = "" if process.poll() is None else f" (it ended with {process.returncode})"
                raise ServerError(
                    f"'{' '.join(command[1:])}' must be ready within {seconds:g} s{ended}; "
                    f"it wrote: {server.last_output() or 'nothing'}"
                )
            server.resume()
            yield server
        finally:
            _stop(process, server)


def _wait_until(
    is_ready: Callable[[Server], bool], server: Server, process: subprocess.Popen[bytes], seconds: float
) -> bool:
    deadline = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < deadline:
        if is_ready(server):
            return True
        time.sleep(0.05)
    return False


def _stop(process: subprocess.Popen[bytes], server: Server) -> None:
    """SIGTERM to the first process, which should end the others; those that remain are killed."""
    server.resume()
    processes = tree.members(process.pid)
    process.terminate()
    try:
        process.wait(SECONDS_TO_STOP)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    tree.send({*processes, *tree.members(process.pid)} - {process.pid}, signal.SIGKILL)
