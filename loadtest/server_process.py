"""A server as a process: started on a free port, ready, stopped; it knows no server's inside."""

from __future__ import annotations

import http.client
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]


class ServerError(RuntimeError):
    """The server ended, or was not ready in time; the message ends with what it last wrote."""


@dataclass(frozen=True)
class Server:
    """A server that runs: where it listens, and its process."""

    url: str
    process_id: int

    def cpu_seconds(self) -> float | None:
        """Processor time that the process has used so far; None where the system does not tell."""
        try:
            fields = Path(f"/proc/{self.process_id}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return None
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def free_port() -> int:
    """A TCP port of this machine that nothing listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def running(
    module: str,
    arguments: Sequence[str],
    *,
    core: int | None = None,
    ready_path: str = "/readyz",
    seconds: float = 60.0,
) -> Iterator[Server]:
    """`python -m module ... --port PORT`, ready.

    `core` holds it on one core, where taskset is installed. Raises ServerError when it is not ready within
    `seconds`.
    """
    port = free_port()
    command = [sys.executable, "-m", module, *arguments, "--port", str(port)]
    if core is not None and shutil.which("taskset"):
        command = ["taskset", "--cpu-list", str(core), *command]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, cwd=REPOSITORY, env=environment
        )
        try:
            if not _is_ready(process, port, ready_path, seconds):
                output.seek(0)
                last = output.read().decode("utf-8", "replace").strip()[-500:]
                raise ServerError(
                    f"'{' '.join(command[-6:])}' must be ready within {seconds:g} s; it wrote: {last}"
                )
            yield Server(f"http://127.0.0.1:{port}", process.pid)
        finally:
            process.terminate()
            try:
                process.wait(10.0)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _is_ready(process: subprocess.Popen[bytes], port: int, path: str, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < deadline:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2.0)
        try:
            connection.request("GET", path)
            if connection.getresponse().status == 200:
                return True
        except OSError:
            pass
        finally:
            connection.close()
        time.sleep(0.05)
    return False
