"""The service as it is run: real processes, real sockets, signals."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from prometheus_client.multiprocess import MultiProcessCollector

from tests.service.running import JSON, ServiceProcess, read_metrics
from tests.tiny_bundle import tiny_rows

RunService = Callable[..., ServiceProcess]
ROW = tiny_rows(1)[0]
REQUEST = {"context": ROW["context"], "candidates": [{"id": "ad", "features": ROW["candidate"]}]}


def wait_until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    """Ask until the answer is yes; fails after so long."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def raw_request(body: bytes, length: int | None = None, path: str = "/predict") -> bytes:
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(body) if length is None else length}\r\n\r\n".encode() + body


def read_all(connection: socket.socket) -> bytes:
    chunks = []
    while chunk := connection.recv(65536):
        chunks.append(chunk)
    return b"".join(chunks)


def test_the_line_it_prints_works(run_service: RunService, bundles: dict[str, Path]) -> None:
    service = run_service("--arm", f"control={bundles['alpha']}:90", "--arm", f"t={bundles['beta']}:10")
    assert service.process.stdout is not None
    lines = [service.process.stdout.readline() for _ in range(3)]
    assert [line.split(":")[0] for line in lines] == ["  arm control", "  arm t", "Try"]
    command = shlex.split(lines[2].removeprefix("Try: "))
    assert command[:2] == ["curl", "-s"]
    body = command[command.index("-d") + 1]
    answer = httpx.post(command[2], content=body, headers=JSON)
    assert answer.status_code == 200
    assert answer.json()["results"][0]["bid"] is not None
    assert service.stop() in (0, -signal.SIGTERM)
    assert service.errors == []


@pytest.mark.parametrize("workers", ["1", "2"])
def test_sigterm_answers_what_is_in_flight_and_refuses_the_rest(
    run_service: RunService, bundles: dict[str, Path], workers: str
) -> None:
    service = run_service("--arm", f"control={bundles['alpha']}", "--workers", workers)
    body = json.dumps(REQUEST).encode()
    request = raw_request(body)
    with socket.create_connection(("127.0.0.1", service.port)) as connection:
        connection.sendall(request[:-5])
        wait_until(lambda: httpx.get(f"{service.url}/readyz").status_code == 200)
        service.process.send_signal(signal.SIGTERM)
        wait_until(lambda: not accepts(service.port))
        connection.sendall(request[-5:])
        answer = read_all(connection)
    assert answer.startswith(b"HTTP/1.1 200 OK")
    assert b"connection: close" in answer
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["results"][0]["id"] == "ad"
    assert service.process.wait(timeout=10) in (0, -signal.SIGTERM)


def accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def test_bodies_that_are_too_long_are_refused_without_being_read(
    run_service: RunService, bundles: dict[str, Path]
) -> None:
    service = run_service("--arm", f"control={bundles['alpha']}", "--max-body-bytes", "1000")
    answers = [
        httpx.post(f"{service.url}/predict", content=b" " * 3_000_000, headers=JSON),
        httpx.post(f"{service.url}/predict", content=iter([b" " * 1000] * 3000), headers=JSON),
    ]
    for answer in answers:
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large")
    endless = raw_request(b"").replace(b"content-length: 0", b"transfer-encoding: chunked")
    chunk = b"10000\r\n" + b" " * 65536 + b"\r\n"
    with socket.create_connection(("127.0.0.1", service.port)) as connection:
        connection.sendall(endless)
        sent = 0
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            while sent < 200_000_000:
                connection.sendall(chunk)
                sent += len(chunk)
        assert sent < 100_000_000
    with socket.create_connection(("127.0.0.1", service.port)) as connection:
        asks_first = raw_request(b"", length=10**9).replace(b"\r\n\r\n", b"\r\nexpect: 100-continue\r\n\r\n")
        connection.sendall(asks_first)
        assert read_all(connection).startswith(b"HTTP/1.1 413 ")
    assert httpx.post(f"{service.url}/predict", json=REQUEST).status_code == 200


def test_a_killed_client_harms_nobody(run_service: RunService, bundles: dict[str, Path]) -> None:
    service = run_service("--arm", f"control={bundles['alpha']}", "--max-batch-rows", "16")
    large = {**REQUEST, "candidates": REQUEST["candidates"] * 900}
    expected = httpx.post(f"{service.url}/predict", json=large).json()["results"]
    body = json.dumps(large).encode()
    for attempt in range(5):
        with socket.create_connection(("127.0.0.1", service.port)) as connection:
            connection.sendall(raw_request(body, length=len(body) + (attempt % 2)))
            # Not a polite end: a reset.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        assert httpx.post(f"{service.url}/predict", json=large).json()["results"] == expected
    assert service.stop() in (0, -signal.SIGTERM)
    assert service.errors == []


def test_workers_share_one_port_and_their_totals_add_up(
    run_service: RunService, bundles: dict[str, Path]
) -> None:
    service = run_service("--arm", f"control={bundles['alpha']}", "--workers", "2")
    folder = metrics_folder(service.process.pid)
    answered = 0
    # A connection each, so that both workers get some.
    with httpx.Client(limits=httpx.Limits(max_keepalive_connections=0)) as client:
        while sum(count > 0 for count in answers_by_worker(folder)) < 2 or answered < 40:
            assert client.post(f"{service.url}/predict", json=REQUEST).status_code == 200
            answered += 1
            assert answered < 5000, "one worker answers everything"
        for _ in range(10):
            metrics = read_metrics(client.get(f"{service.url}/metrics").text)
            assert metrics[ANSWERS] == sum(answers_by_worker(folder)) == answered
            assert metrics['bidlight_batch_rows_sum{arm="control"}'] == answered
            assert metrics['bidlight_request_seconds_count{arm="control"}'] == answered
    assert sum(value for name, value in metrics.items() if name.startswith("bidlight_bundle_info")) == 1
    assert service.stop() == 0
    assert not folder.exists()
    assert not accepts(service.port)


ANSWERS = 'bidlight_requests_total{arm="control",outcome="ok"}'


def answers_by_worker(folder: Path) -> list[float]:
    """What each process has counted, from its own file."""
    found = []
    for file in folder.glob("counter_*.db"):
        samples = [s for metric in MultiProcessCollector.merge([str(file)]) for s in metric.samples]
        ok = {"arm": "control", "outcome": "ok"}
        found += [s.value for s in samples if s.name == "bidlight_requests_total" and s.labels == ok]
    return found


def children_of(pid: int) -> list[int]:
    """The child processes: the workers, and the helper of Python's multiprocessing."""
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in text.split()]


def metrics_folder(pid: int) -> Path:
    """The folder that the workers of `pid` were told to write their metrics into."""
    for child in children_of(pid):
        for entry in Path(f"/proc/{child}/environ").read_bytes().split(b"\0"):
            if entry.startswith(b"PROMETHEUS_MULTIPROC_DIR="):
                return Path(entry.partition(b"=")[2].decode())
    raise AssertionError("no worker")


def test_a_dead_worker_is_replaced(run_service: RunService, bundles: dict[str, Path]) -> None:
    service = run_service("--arm", f"control={bundles['alpha']}", "--workers", "2")
    before = set(children_of(service.process.pid))
    victim = max(before)
    os.kill(victim, signal.SIGKILL)
    wait_until(
        lambda: victim not in (now := set(children_of(service.process.pid))) and len(now) == len(before)
    )
    wait_until(lambda: httpx.get(f"{service.url}/readyz").status_code == 200)
    assert httpx.post(f"{service.url}/predict", json=REQUEST).status_code == 200
    assert service.stop() == 0


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_corrupted_bundle_stops_the_service_with_one_line(
    run_service: RunService, bundles: dict[str, Path], tmp_path: Path, workers: str
) -> None:
    broken = shutil.copytree(bundles["alpha"], tmp_path / "broken")
    graph = broken / "model.float32.onnx"
    data = bytearray(graph.read_bytes())
    data[len(data) // 2] ^= 1
    graph.write_bytes(data)
    service = run_service("--arm", f"control={broken}", "--workers", workers)
    assert service.process.wait(timeout=20) == 3
    service.stop()
    assert len(service.errors) == 1
    assert "arm control" in service.errors[0]
    assert "broken/model.float32.onnx' must be of SHA-256" in service.errors[0]


def test_a_port_that_is_taken_is_said(run_service: RunService, bundles: dict[str, Path]) -> None:
    first = run_service("--arm", f"control={bundles['alpha']}")
    second = run_service("--arm", f"control={bundles['alpha']}", "--port", str(first.port))
    assert second.process.wait(timeout=20) != 0
    second.stop()
    assert any("address already in use" in line for line in second.errors)


def test_serving_loads_nothing_of_training() -> None:
    code = (
        "import sys, service.app, service.__main__, service.supervision\n"
        "heavy = {'torch', 'onnx', 'sklearn', 'polars', 'models', 'export'}\n"
        "print(sorted(heavy & sys.modules.keys()))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
