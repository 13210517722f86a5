"""Misbehaving clients: they die, are slow, send too much, too many requests at once, or no HTTP."""

from __future__ import annotations

import contextlib
import json
import resource
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.raw_http import body_of, message, read_answer, reset, taken_connections, wait_until
from tests.running import JSON, RunningService, running_service


@pytest.fixture(scope="module")
def quiet(bundles: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """A service with default limits; every test asserts that it has logged nothing."""
    with running_service(
        tmp_path_factory.mktemp("quiet"), ["--arm", f"only={bundles['control']}"]
    ) as service:
        yield service


@pytest.fixture(scope="module")
def limited(bundles: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """A service that refuses long bodies, and is patient with slow clients."""
    arguments = ["--arm", f"only={bundles['control']}", "--max-body-bytes", "1000"]
    with running_service(tmp_path_factory.mktemp("limited"), arguments) as service:
        yield service


@pytest.fixture(scope="module")
def strict(bundles: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """A service that refuses long bodies and disconnects slow clients."""
    limits = ["--max-body-bytes", "1000", "--keep-alive-seconds", "1"]
    arguments = ["--arm", f"only={bundles['control']}", *limits]
    with running_service(tmp_path_factory.mktemp("strict"), arguments) as service:
        yield service


def test_clients_that_die_mid_request_harm_nobody(quiet: RunningService) -> None:
    body = body_of(20)
    expected = quiet.post(body).json()

    def patient(_: int) -> list[Any]:
        with quiet.client(headers=JSON) as client:
            return [client.post("/predict", content=body).json() for _ in range(20)]

    with ThreadPoolExecutor(4) as pool:
        answers = pool.map(patient, range(4))
        for number in range(60):
            connection = quiet.connect()
            sent = message(body)
            # The client dies within the headers, within the body, or after the whole request.
            connection.sendall(sent[: (20, len(sent) - 30, len(sent))[number % 3]])
            reset(connection)
        assert all(answer == expected for found in answers for answer in found)
    assert quiet.post(body).json() == expected
    assert quiet.errors.read_text() == ""


def test_clients_that_die_while_their_rows_wait_harm_nobody(bundles: dict[str, Path], tmp_path: Path) -> None:
    arguments = ["--arm", f"only={bundles['control']}", "--max-batch-rows", "16"]
    with running_service(tmp_path, arguments) as service:
        body = body_of(900)
        expected = service.post(body).json()
        for _ in range(5):
            connection = service.connect()
            connection.sendall(message(body))
            reset(connection)
            assert service.post(body).json() == expected
        assert service.stop() == 0
    assert service.errors.read_text() == ""


def test_clients_that_die_with_several_requests_sent_harm_nobody(
    bundles: dict[str, Path], tmp_path: Path
) -> None:
    arguments = ["--arm", f"only={bundles['control']}", "--max-batch-rows", "1"]
    with running_service(tmp_path, arguments) as service:
        for _ in range(5):
            connections = taken_connections(service, 4)
            for connection in connections:
                connection.sendall(message(body_of(300)) * 3)
            assert service.post(body_of(1)).status_code == 200
            for connection in connections:
                reset(connection)
            assert service.post(body_of(1)).status_code == 200
        assert service.stop() == 0
    assert service.errors.read_text() == ""


def test_a_client_that_dies_among_batch_mates_harms_none_of_them(quiet: RunningService) -> None:
    connections = taken_connections(quiet, 12)
    before = quiet.metrics()
    # The process is stopped while all of them send, so it reads all requests in one event-loop iteration.
    quiet.send_signal(signal.SIGSTOP)
    for number, connection in enumerate(connections):
        connection.sendall(message(body_of(3, f"req-{number}")))
    for connection in connections[::3]:
        reset(connection)
    quiet.send_signal(signal.SIGCONT)
    for number, connection in enumerate(connections):
        if number % 3:
            with connection:
                status, _, answer = read_answer(connection)
            assert (status, answer["id"], len(answer["results"])) == (200, f"req-{number}", 3)
    after = quiet.metrics()
    requests, batches = (
        after[f'bidlight_batch_requests_{name}{{arm="only"}}']
        - before[f'bidlight_batch_requests_{name}{{arm="only"}}']
        for name in ("sum", "count")
    )
    assert requests >= 8
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
        counted = service.metrics()['bidlight_requests_total{arm="only",outcome="overloaded"}']
        assert counted == len(refused)
        assert service.post(body_of(5)).status_code == 200


def test_bodies_that_are_too_long_are_refused_without_being_kept(strict: RunningService) -> None:
    for body in (b" " * 3_000_000, iter([b" " * 1000] * 3000)):
        answer = httpx.post(f"{strict.url}/predict", content=body, headers=JSON, trust_env=False)
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large")
    chunk = b"10000\r\n" + b" " * 65536 + b"\r\n"
    with strict.connect() as connection:
        head = message(b"").replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
        connection.sendall(head)
        sent = 0
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            while sent < 200_000_000:
                connection.sendall(chunk)
                sent += len(chunk)
        assert sent < 100_000_000


def test_a_body_that_is_announced_too_long_and_not_sent_is_refused(limited: RunningService) -> None:
    with limited.connect() as waiting, limited.connect() as silent:
        waiting.sendall(message(b"", "Expect: 100-continue", length=10**9))
        silent.sendall(message(b"", length=10**9))
        for connection in (waiting, silent):
            assert read_answer(connection)[0] == 413
            assert connection.recv(1) == b""


def test_a_client_that_stops_sending_loses_its_connection(strict: RunningService) -> None:
    parts = (b"", b"POST /pred", message(body_of(1))[:-5])
    connections = [strict.connect() for _ in parts]
    for connection, part in zip(connections, parts, strict=True):
        connection.sendall(part)
    for connection in connections:
        with connection:
            assert connection.recv(1) == b""


def test_a_client_that_sends_byte_by_byte_loses_its_connection(strict: RunningService) -> None:
    with strict.connect() as connection:
        connection.settimeout(0.2)
        connection.sendall(b"POST /predict HTTP/1.1\r\nX-Slow: ")
        for _ in range(50):
            try:
                assert connection.recv(1) == b""
            except TimeoutError:
                connection.sendall(b"a")
            else:
                return
    raise AssertionError("the service still waits for the rest")


def test_a_client_that_stops_reading_loses_its_connection(bundles: dict[str, Path], tmp_path: Path) -> None:
    arguments = ["--arm", f"only={bundles['control']}", "--keep-alive-seconds", "1"]
    with running_service(tmp_path, arguments) as service, service.connect() as connection:
        connection.settimeout(0.5)
        # Answers pile up until the service stops reading; a busy machine may disconnect before the timeout.
        with contextlib.suppress(TimeoutError, ConnectionError):
            while True:
                connection.sendall(message(body_of(1000)))
        wait_until(lambda: is_disconnected(connection))
        assert service.post(body_of(1)).status_code == 200
        assert service.stop() == 0
    assert service.errors.read_text() == ""


def is_disconnected(connection: socket.socket) -> bool:
    try:
        connection.send(b" ")
    except TimeoutError:
        return False
    except ConnectionError:
        return True
    return False


def test_an_empty_line_after_an_answer_keeps_no_connection_open(strict: RunningService) -> None:
    with strict.connect() as connection:
        connection.sendall(b"GET /arms HTTP/1.1\r\nHost: x\r\n\r\n")
        assert read_answer(connection)[0] == 200
        connection.sendall(b"\r\n")
        assert connection.recv(1) == b""


def test_an_idle_connection_is_closed_and_a_used_one_is_kept(strict: RunningService) -> None:
    idle, used = taken_connections(strict, 2)
    chunked = message(body_of(1)).replace(b"Content-Length: ", b"X-Length: ", 1).partition(b"\r\n\r\n")[0]
    body = body_of(1)
    through_asgi = chunked + b"\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (
        len(body),
        body,
    )
    with idle, used:
        for request in (message(body), through_asgi, message(body), through_asgi, message(body)):
            time.sleep(0.4)
            used.sendall(request)
            assert read_answer(used)[0] == 200
        assert idle.recv(1) == b""  # after twice the keep-alive time
        assert used.recv(1) == b""  # it is idle now too


@pytest.mark.parametrize("line", [b"X-Long: " + b"a" * 1000 + b"\r\n", b"a" * 1000])
def test_headers_without_end_are_refused(strict: RunningService, line: bytes) -> None:
    """The second case is a path without end."""
    with strict.connect() as connection:
        connection.sendall(b"POST /" if line[:1] == b"a" else b"POST /predict HTTP/1.1\r\n")
        sent = 0
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            while sent < 50_000_000:
                connection.sendall(line)
                sent += len(line)
    assert sent < 50_000_000


def test_headers_that_are_too_long_are_told_so(strict: RunningService) -> None:
    with strict.connect() as connection:
        connection.sendall(b"POST /predict HTTP/1.1\r\nX-Long: ")
        time.sleep(0.2)  # so that the rest arrives separately
        connection.sendall(b"a" * 65_537)
        status, headers, answer = read_answer(connection)
    assert (status, headers["connection"], answer["error"]["code"]) == (431, "close", "head_too_large")


OFFER = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__")


def test_an_offer_of_another_protocol_is_ignored_and_its_request_answered(service: RunningService) -> None:
    """Java's HttpClient sends this offer first on every connection."""
    sent = message(body_of(2, "first"), *OFFER) + message(body_of(1, "second"))
    for parts in ((sent,), (sent[:150], sent[150:-30], sent[-30:])):
        with service.connect() as connection:
            for part in parts:
                connection.sendall(part)
            answers = [read_answer(connection) for _ in range(2)]
        assert [(status, answer["id"]) for status, _, answer in answers] == [(200, "first"), (200, "second")]
    with service.connect() as connection:  # more at once than Python's recursion limit
        connection.sendall(message(b"{}", *OFFER) * 1500)
        assert {read_answer(connection)[0] for _ in range(1500)} == {422}
    with service.connect() as connection:
        connection.sendall(message(body_of(1), "Connection: close, Upgrade", "Upgrade: websocket"))
        status, headers, _ = read_answer(connection)
        assert (status, headers["connection"]) == (200, "close")
        assert connection.recv(1) == b""


def test_pipelined_requests_are_answered_in_order(service: RunningService) -> None:
    bodies = [body_of(1 + number % 3, f"req-{number}") for number in range(2000)]
    with service.connect() as connection:
        connection.sendall(b"".join(message(body) for body in bodies))
        answers = [read_answer(connection) for _ in bodies]
    assert [answer["id"] for _, _, answer in answers] == [json.loads(body)["id"] for body in bodies]


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\r\n\r\n",
        b"CONNECT elsewhere:443 HTTP/1.1\r\nHost: elsewhere\r\n\r\n",
        b"POST /predict HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
        message(b"").replace(b"Content-Length: 0", b"Transfer-Encoding: chunked") + b"zz\r\n",
    ],
)
def test_what_is_not_http_is_refused_like_everything_else(quiet: RunningService, sent: bytes) -> None:
    with quiet.connect() as connection:
        connection.sendall(sent)
        status, headers, answer = read_answer(connection)
        assert (status, headers["connection"]) == (400, "close")
        assert answer["error"]["code"] == "malformed_request"
        assert connection.recv(1) == b""
    assert quiet.errors.read_text() == ""


def test_what_is_not_http_takes_no_answer_from_the_request_before_it(service: RunningService) -> None:
    with service.connect() as connection:
        connection.sendall(message(body_of(1)) + b"nonsense\r\n\r\n")
        assert read_answer(connection)[0] == 200
        status, headers, _ = read_answer(connection)
        assert (status, headers["connection"]) == (400, "close")
        assert connection.recv(1) == b""


def resident_mb(service: RunningService) -> float:
    """The memory of the process, MB."""
    status = Path(f"/proc/{service.process.pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) / 1024


CHUNKED = message(b"").replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")


@pytest.mark.parametrize(
    "request_line",
    [
        message(body_of(1)),
        b"GET / HTTP/1.1\r\n\r\n",
        CHUNKED + b"20000\r\n" + b"\n" * 0x20000 + b"\r\n0\r\n\r\n",
    ],
    ids=["post", "get", "chunks"],
)
def test_a_client_that_sends_and_sends_takes_no_memory(quiet: RunningService, request_line: bytes) -> None:
    before = resident_mb(quiet)
    many = request_line * (1_000_000 // len(request_line))
    sent = {quiet.connect(): 0 for _ in range(20)}
    until = time.monotonic() + 1.5
    for connection in sent:
        connection.setblocking(False)
    while time.monotonic() < until:
        for connection, at in sent.items():
            with contextlib.suppress(BlockingIOError):
                sent[connection] = (at + connection.send(many[at:])) % len(many)
        time.sleep(0.01)
    assert resident_mb(quiet) - before < 30
    assert quiet.post(body_of(1)).status_code == 200
    for connection in sent:
        reset(connection)


def test_an_idle_connection_keeps_nothing_of_its_request(quiet: RunningService) -> None:
    names = {f"u{number}": number for number in range(50_000)}
    large = json.dumps({"context": names, "candidates": [{}]}).encode()
    assert quiet.post(large).status_code == 200  # what the service takes for one such request is there now
    before = resident_mb(quiet)
    connections = [quiet.connect() for _ in range(15)]
    for connection in connections:
        connection.sendall(message(large))
        assert read_answer(connection)[0] == 200
    assert resident_mb(quiet) - before < 30  # one of them took 20 MB
    for connection in connections:
        connection.close()


def test_clients_that_stop_within_large_bodies_keep_nobody_out(
    bundles: dict[str, Path], tmp_path: Path
) -> None:
    limits = ["--max-body-bytes", "1000000", "--max-held-bytes", "5000000"]
    with running_service(tmp_path, ["--arm", f"only={bundles['control']}", *limits]) as service:
        before = resident_mb(service)
        stopped = [service.connect() for _ in range(30)]
        for connection in stopped:
            connection.sendall(message(b" " * 900_000, length=1_000_000))
        wait_until(lambda: stopped[20].recv(1, socket.MSG_PEEK) == b"H")
        assert read_answer(stopped[0])[0] == 429
        assert service.post(body_of(5)).status_code == 200
        assert resident_mb(service) - before < 30
        assert service.metrics()['bidlight_requests_total{arm="",outcome="overloaded"}'] >= 20
        for connection in stopped:
            connection.close()


def test_at_the_limit_of_files_others_wait_and_the_log_says_why(
    bundles: dict[str, Path], tmp_path: Path
) -> None:
    with running_service(tmp_path, ["--arm", f"only={bundles['control']}"]) as service:
        resource.prlimit(service.process.pid, resource.RLIMIT_NOFILE, (140, 140))
        connections = [service.connect() for _ in range(120)]
        for connection in connections:
            connection.sendall(b"POST /predict HTTP/1.1\r\n")
        time.sleep(1.0)  # the service has read from each, so none of them is idle
        with service.connect() as waiting:
            waiting.settimeout(0.5)
            waiting.sendall(message(body_of(1)))
            with pytest.raises(TimeoutError):
                waiting.recv(1)
            for connection in connections[:60]:
                connection.close()
            waiting.settimeout(20)
            assert read_answer(waiting)[0] == 200
        for connection in connections[60:]:
            connection.close()
        assert service.metrics()['bidlight_accept_pauses_total{reason="connections"}'] >= 1
        assert service.stop() == 0
    lines = service.errors.read_text().splitlines()
    assert 1 <= len(lines) <= 4
    assert all("new connections wait" in line and "ulimit -n" in line for line in lines)


@pytest.mark.parametrize(
    "path", ["/healthz", "/readyz", "/arms", "/metrics", "/docs", "/openapi.json", "/no"]
)
def test_head_is_answered_wherever_get_is(service: RunningService, path: str) -> None:
    with service.client() as client:
        got, head = client.get(path), client.head(path)
    assert head.status_code == got.status_code
    assert head.content == b""
    assert head.headers["content-type"] == got.headers["content-type"]
    if path != "/metrics":  # its numbers grow
        assert head.headers["content-length"] == got.headers["content-length"]


def test_other_methods_are_refused_with_those_that_there_are(service: RunningService) -> None:
    with service.client() as client:
        assert client.put("/healthz").headers["allow"] == "GET, HEAD"
        for method in ("HEAD", "GET"):
            answer = client.request(method, "/predict")
            assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
