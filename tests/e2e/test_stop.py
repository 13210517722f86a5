"""No connection that the kernel has accepted is lost when a service stops: fresh or kept, by any workers."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections import Counter
from pathlib import Path

import pytest

from tests.e2e.raw_http import body_of, message, read_answer, wait_until
from tests.running import RunningService, running_service

FRESH, KEPT = 6, 3


class Clients:
    """Clients that ask over a new connection each time, and others that keep theirs, until `is_over`."""

    def __init__(self, service: RunningService) -> None:
        self.counts: Counter[str] = Counter()
        self.lost: list[str] = []
        self.is_over = threading.Event()
        self._service = service
        kinds = [self._ask_afresh] * FRESH + [self._ask_again] * KEPT
        self._threads = [threading.Thread(target=kind) for kind in kinds]
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        self.is_over.set()
        for thread in self._threads:
            thread.join()

    def _connect(self) -> socket.socket | None:
        """None where the service refuses: it has stopped listening, and nothing is lost."""
        try:
            return self._service.connect()
        except OSError:
            self.counts["refused"] += 1
            self.is_over.wait(0.02)
            return None

    def _ask(self, connection: socket.socket, kind: str, sent: bytes) -> bool:
        """Ask once; whether another request may be sent over the connection."""
        try:
            connection.sendall(sent)
            status, headers, _ = read_answer(connection)
        except (OSError, AssertionError) as error:
            self.lost.append(f"{kind}: {error!r}")
            return False
        self.counts[f"{kind} {status}"] += 1
        return headers.get("connection") != "close"

    def _ask_afresh(self) -> None:
        while not self.is_over.is_set():
            if connection := self._connect():
                with connection:
                    self._ask(connection, "fresh", message(body_of(1), "Connection: close"))

    def _ask_again(self) -> None:
        while not self.is_over.is_set():
            if connection := self._connect():
                with connection:
                    while not self.is_over.is_set() and self._ask(connection, "kept", message(body_of(1))):
                        pass


def stop_under_load(
    bundle: Path, folder: Path, workers: int, number: signal.Signals, *, all_processes: bool = False
) -> None:
    with running_service(folder, ["--arm", f"only={bundle}", "--workers", str(workers)]) as service:
        clients = Clients(service)
        try:
            wait_until(lambda: clients.counts["fresh 200"] > 50 and clients.counts["kept 200"] > 50)
            for process in service.workers() if all_processes else ():
                os.kill(process, number)
            service.send_signal(number)
            assert service.wait() == 0
        finally:
            clients.end()
    assert clients.lost == []
    assert {kind for kind in clients.counts if kind != "refused"} == {"fresh 200", "kept 200"}
    assert service.errors.read_text() == ""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("workers", [1, 2])
def test_a_stop_loses_no_connection(
    bundles: dict[str, Path], tmp_path: Path, workers: int, number: signal.Signals
) -> None:
    stop_under_load(bundles["control"], tmp_path, workers, number)


def test_a_signal_to_all_processes_loses_no_connection(bundles: dict[str, Path], tmp_path: Path) -> None:
    """As Ctrl-C in a terminal, and systemd's stop, send it."""
    stop_under_load(bundles["control"], tmp_path, 2, signal.SIGTERM, all_processes=True)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_ten_of_ten_stops_lose_no_connection(bundles: dict[str, Path], tmp_path: Path, workers: int) -> None:
    for _ in range(10):
        stop_under_load(bundles["control"], tmp_path, workers, signal.SIGTERM)
