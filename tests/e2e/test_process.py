"""The service as a process: clients that leave, a signal to stop, several workers, a broken bundle."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import struct
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx

from tests.running_service import RunningService, metric_total, running_service, start_service
from tests.tiny_bundle import tiny_rows

ROW = tiny_rows(1)[0]


def body_of(candidates: int, identifier: str = "req") -> bytes:
    request = {
        "id": identifier,
        "context": ROW["context"],
        "candidates": [
            {"id": str(number), "features": {"ad": f"a{number % 10}"}} for number in range(candidates)
        ],
    }
    return json.dumps(request).encode()


def message(body: bytes) -> bytes:
    return (
        b"POST /predict HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n" % len(body)
    ) + body


def read_answer(connection: socket.socket) -> tuple[int, dict[str, str], Any]:
    """Status, headers and JSON body of one answer."""
    data = b""
    while b"\r\n\r\n" not in data:
        received = connection.recv(65536)
        assert received, f"the connection closed after {data!r}"
        data += received
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    while len(body) < int(headers["content-length"]):
        received = connection.recv(65536)
        assert received, "the connection closed within the body"
        body += received
    return int(first.split()[1]), headers, json.loads(body)


def taken_connections(service: RunningService, count: int) -> list[socket.socket]:
    """Connections that were answered once: the service has taken them from the backlog, and reads them."""
    connections = [service.connect() for _ in range(count)]
    for connection in connections:
        connection.sendall(message(body_of(1)))
        assert read_answer(connection)[0] == 200
    return connections


def reset(connection: socket.socket) -> None:
    """Close as a killed client's machine does: a reset, no farewell."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def test_clients_that_die_mid_request_harm_nobody(bundles: dict[str, Path], tmp_path: Path) -> None:
    body = body_of(20)
    with running_service(tmp_path, ["--arm", f"only={bundles['control']}"]) as service:
        with service.client() as client:
            expected = client.post(
                "/predict", content=body, headers={"Content-Type": "application/json"}
            ).json()

        def patient(_: int) -> list[Any]:
            with service.client() as client:
                headers = {"Content-Type": "application/json"}
                return [client.post("/predict", content=body, headers=headers).json() for _ in range(20)]

        with ThreadPoolExecutor(4) as pool:
            answers = pool.map(patient, range(4))
            for number in range(60):
                connection = service.connect()
                sent = message(body)
                # Dead within the headers, within the body, and with the whole request sent.
                connection.sendall(sent[: (20, len(sent) - 30, len(sent))[number % 3]])
                reset(connection)
            assert all(answer == expected for found in answers for answer in found)
        with service.client() as client:
            assert (
                client.post("/predict", content=body, headers={"Content-Type": "application/json"}).json()
                == expected
            )
    assert "Traceback" not in service.errors.read_text()


def test_a_client_that_dies_among_batch_mates_harms_none_of_them(
    bundles: dict[str, Path], tmp_path: Path
) -> None:
    with running_service(tmp_path, ["--arm", f"only={bundles['control']}"]) as service:
        connections = taken_connections(service, 12)
        # The process sleeps while all of them send, so it wakes to all requests in one turn of its loop.
        service.send_signal(signal.SIGSTOP)
        for number, connection in enumerate(connections):
            connection.sendall(message(body_of(3, f"req-{number}")))
        for connection in connections[::3]:
            reset(connection)
        service.send_signal(signal.SIGCONT)
        for number, connection in enumerate(connections):
            if number % 3:
                with connection:
                    status, _, answer = read_answer(connection)
                assert (status, answer["id"], len(answer["results"])) == (200, f"req-{number}", 3)
        with service.client() as client:
            text = client.get("/metrics").text
    batches = metric_total(text, "bidlight_batch_requests_count", arm="only")
    requests = metric_total(text, "bidlight_batch_requests_sum", arm="only")
    assert requests >= 12 + 8
    assert batches < requests  # they did share batches


def test_a_full_queue_refuses_at_once_with_retry_after(bundles: dict[str, Path], tmp_path: Path) -> None:
    limits = ["--max-queued-rows", "10", "--max-candidates", "5"]
    with running_service(tmp_path, ["--arm", f"only={bundles['control']}", *limits]) as service:
        connections = taken_connections(service, 20)
        service.send_signal(signal.SIGSTOP)
        for connection in connections:
            connection.sendall(message(body_of(5)))
        service.send_signal(signal.SIGCONT)
        answers = []
        for connection in connections:
            with connection:
                answers.append(read_answer(connection))
        served = [answer for answer in answers if answer[0] == 200]
        refused = [answer for answer in answers if answer[0] == 429]
        assert len(served) + len(refused) == 20
        assert len(served) >= 2
        assert refused
        for _, headers, answer in refused:
            assert headers["retry-after"].isdigit()
            assert answer["error"]["code"] == "overloaded"
        with service.client() as client:
            text = client.get("/metrics").text
            assert metric_total(text, "bidlight_requests_total", outcome="overloaded") == len(refused)
            answer = client.post("/predict", content=body_of(5), headers={"Content-Type": "application/json"})
            assert answer.status_code == 200


def test_sigterm_lets_requests_in_flight_finish_and_refuses_new_connections(
    bundles: dict[str, Path], tmp_path: Path
) -> None:
    with running_service(tmp_path, ["--arm", f"only={bundles['control']}"]) as service:
        sent = message(body_of(10))
        connections = [service.connect() for _ in range(8)]
        for connection in connections:
            connection.sendall(sent[:-20])
        with service.client() as client:  # every request has begun: this one came after them
            assert client.get("/healthz").status_code == 200
        service.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + 20.0
        while accepts(service):
            assert time.monotonic() < deadline, "it still takes new connections"
            time.sleep(0.02)
        for connection in connections:
            connection.sendall(sent[-20:])
        for connection in connections:
            with connection:
                status, _, answer = read_answer(connection)
            assert (status, len(answer["results"])) == (200, 10)
        assert service.wait() == 0
    assert "Traceback" not in service.errors.read_text()


def test_requests_sent_before_a_sigterm_are_answered(bundles: dict[str, Path], tmp_path: Path) -> None:
    with running_service(tmp_path, ["--arm", f"only={bundles['control']}"]) as service:
        connections = taken_connections(service, 20)
        service.send_signal(signal.SIGSTOP)
        for number, connection in enumerate(connections):
            connection.sendall(message(body_of(50, f"req-{number}")))
        service.send_signal(signal.SIGTERM)
        service.send_signal(signal.SIGCONT)
        for number, connection in enumerate(connections):
            with connection:
                status, _, answer = read_answer(connection)
            assert (status, answer["id"], len(answer["results"])) == (200, f"req-{number}", 50)
        service.wait()


def accepts(service: RunningService) -> bool:
    try:
        service.connect().close()
    except ConnectionError:
        return False
    return True


def test_metrics_of_two_workers_are_the_totals(bundles: dict[str, Path], tmp_path: Path) -> None:
    arguments = ["--arm", f"only={bundles['control']}", "--workers", "2"]
    with running_service(tmp_path, arguments) as service:

        def ask(number: int) -> int:
            # A connection each, so that both workers get some.
            headers = {"Content-Type": "application/json"}
            bad = number % 10 == 0
            answer = httpx.post(
                f"{service.url}/predict",
                content=b"{}" if bad else body_of(3),
                headers=headers,
                timeout=20.0,
                trust_env=False,
            )
            return answer.status_code

        with ThreadPoolExecutor(8) as pool:
            statuses = list(pool.map(ask, range(200)))
        assert sorted(set(statuses)) == [200, 422]
        for _ in range(6):  # whichever worker answers
            text = httpx.get(f"{service.url}/metrics", timeout=20.0, trust_env=False).text
            assert (
                metric_total(text, "bidlight_requests_total", arm="only", outcome="ok")
                == statuses.count(200)
                == 180
            )
            assert metric_total(text, "bidlight_requests_total", outcome="invalid_field") == 20
            assert metric_total(text, "bidlight_request_seconds_count", arm="only") == 180
            assert metric_total(text, "bidlight_pctr_count", arm="only") == 540
        service.send_signal(signal.SIGTERM)
        assert service.wait() == 0


def refusal_of(folder: Path, arguments: list[str]) -> str:
    """What a service that must not start writes to stderr; it must end with an error."""
    service = start_service(folder, arguments)
    try:
        assert service.wait() not in (0, None)
    finally:
        if service.process.poll() is None:
            service.process.kill()
            service.process.wait()
    return service.errors.read_text()


def test_a_corrupted_bundle_is_refused_in_one_line(bundles: dict[str, Path], tmp_path: Path) -> None:
    broken = shutil.copytree(bundles["control"], tmp_path / "broken")
    graph = broken / "model.float32.onnx"
    data = bytearray(graph.read_bytes())
    data[len(data) // 2] ^= 1
    graph.write_bytes(data)
    errors = refusal_of(tmp_path, ["--arm", f"good={bundles['treatment']}", "--arm", f"bad={broken}"])
    assert len(errors.strip().splitlines()) == 1, errors
    assert "model.float32.onnx" in errors
    assert "SHA-256" in errors


def test_options_that_make_no_sense_are_refused_in_one_line(bundles: dict[str, Path], tmp_path: Path) -> None:
    bundle = bundles["control"]
    for arguments, part in [
        (["--arm", f"only={tmp_path}/absent"], "manifest.json"),
        (["--arm", f"only={bundle}:heavy"], "'weight' of arm only"),
        (["--arm", f"a={bundle}:0"], "'weight' must be above 0"),
        (["--arm", f"a={bundle}", "--arm", f"a={bundle}"], "'a' twice"),
        (["--arm", f"a={bundle}", "--bid-cap", "-1"], "'cap' must be"),
    ]:
        errors = refusal_of(tmp_path, arguments)
        assert len(errors.strip().splitlines()) == 1, errors
        assert part in errors
