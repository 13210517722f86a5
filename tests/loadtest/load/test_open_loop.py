"""The open loop against small real servers: a stall delays every request that was due in it."""

from __future__ import annotations

import socket
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from loadtest.load.open_loop import OpenPoint, arrivals, measure, percentile
from loadtest.load.open_run import Head, read_head
from loadtest.traffic.messages import message_of

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
REFUSAL = b"HTTP/1.1 429 Too Many Requests\r\ncontent-length: 0\r\n\r\n"
BODIES = [b'{"id":"1"}']


Answer = bytes | None | list[bytes | None]


@contextmanager
def serving(answer: Callable[[int], Answer], request_bytes: int = 1) -> Iterator[str]:
    """A server that gives `answer(n)` to its n-th request, one at a time, in parts; None closes.

    It answers as soon as it has received `request_bytes`.
    """
    lock, count = threading.Lock(), iter(range(1_000_000))

    def talk(connection: socket.socket) -> None:
        with connection:
            while data := connection.recv(65536):
                missing = request_bytes - len(data)
                while missing > 0:
                    missing -= len(connection.recv(min(65536, missing)))
                with lock:
                    found = answer(next(count))
                for part in found if isinstance(found, list) else [found]:
                    if part is None:
                        return
                    connection.sendall(part)
                    time.sleep(0.001 if isinstance(found, list) else 0.0)

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=talk, args=(connection,), daemon=True)
            thread.start()
            threads.append(thread)

    threads: list[threading.Thread] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        acceptor = threading.Thread(target=accept, daemon=True)
        acceptor.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
    acceptor.join(5.0)
    for thread in threads:
        thread.join(5.0)


def test_arrivals_are_a_poisson_process_of_the_rate() -> None:
    due = arrivals(1000.0, 20.0, seed=1)
    gaps = [after - before for before, after in zip([0.0, *due], due, strict=False)]
    assert due == sorted(due)
    assert due[-1] < 20.0
    assert len(due) == pytest.approx(20_000, rel=0.03)
    # Exponential gaps: the deviation is the mean.
    assert statistics.pstdev(gaps) == pytest.approx(statistics.mean(gaps), rel=0.05)
    assert arrivals(1000.0, 20.0, seed=1) == due != arrivals(1000.0, 20.0, seed=2)


def test_percentiles_are_of_the_ordered_values() -> None:
    assert percentile(list(range(1, 1001)), 50.0) == 500
    assert percentile(list(range(1, 1001)), 99.9) == 999
    assert percentile([7.0], 1.0) == 7.0
    assert percentile([], 50.0) != percentile([], 50.0)


def test_a_head_tells_status_length_and_whether_it_is_the_last() -> None:
    assert read_head(REFUSAL.partition(b"\r\n\r\n")[0]) == Head(429, 0, False)
    assert read_head(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 7") == Head(200, 7, True)


def test_an_answer_without_a_length_is_refused() -> None:
    with pytest.raises(ValueError, match="must have a Content-Length"):
        read_head(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked")


def test_an_answer_in_pieces_is_one_answer() -> None:
    with serving(lambda _: [ANSWER[:5], ANSWER[5:-1], ANSWER[-1:]]) as url:
        found = measure(url, BODIES, rate=100.0, seconds=0.3, connections=2, seed=3)
    assert (found.errors, found.unanswered) == (0, 0)
    assert found.answered == len(arrivals(100.0, 0.3, seed=3))


def test_a_request_longer_than_the_buffers_is_sent_whole() -> None:
    body = b"x" * 8_000_000
    with serving(lambda _: ANSWER, request_bytes=len(message_of(body))) as url:
        found = measure(url, [body], rate=20.0, seconds=0.3, connections=1, seed=1, drain_seconds=20.0)
    assert (found.errors, found.unanswered) == (0, 0)
    assert found.answered == len(arrivals(20.0, 0.3, seed=1)) > 1


def test_a_connection_that_closes_after_its_answer_loses_nothing() -> None:
    last = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"
    with serving(lambda _: [last, None]) as url:
        found = measure(url, BODIES, rate=200.0, seconds=0.3, connections=2, seed=3)
    assert (found.errors, found.lost, found.unanswered) == (0, 0, 0)
    assert found.answered == len(arrivals(200.0, 0.3, seed=3))


def test_every_request_is_sent_and_answered() -> None:
    with serving(lambda _: ANSWER) as url:
        found = measure(url, BODIES, rate=300.0, seconds=0.5, connections=8, seed=3)
    assert (found.errors, found.unanswered) == (0, 0)
    assert 0.0 < found.p50_ms <= found.p99_ms <= found.p999_ms


def test_a_stall_counts_for_all_that_were_due_in_it() -> None:
    def stalls_once(number: int) -> bytes:
        if number == 10:
            time.sleep(0.8)
        return ANSWER

    with serving(stalls_once) as url:
        found = measure(url, BODIES, rate=200.0, seconds=1.0, connections=2, seed=3)
    assert 0.0 < found.busy < 1.0
    # A closed loop would see one slow answer among fast ones; here more than half were due in the stall.
    assert found.p50_ms > 100.0
    assert (found.errors, found.unanswered) == (0, 0)


def test_other_answers_and_closed_connections_are_errors() -> None:
    with serving(lambda number: {5: REFUSAL, 9: None}.get(number, ANSWER)) as url:
        found = measure(url, BODIES, rate=200.0, seconds=0.3, connections=2, seed=3)
    assert (found.errors, found.refused, found.lost, found.unanswered) == (2, 1, 1, 0)


def test_requests_never_answered_count_with_the_age_they_reached() -> None:
    silent = threading.Event()

    def answer(number: int) -> bytes:
        if number == 10:
            silent.wait(10.0)
        return ANSWER

    with serving(answer) as url:
        found = measure(url, BODIES, rate=200.0, seconds=0.3, connections=1, seed=3, drain_seconds=0.2)
        silent.set()
    assert found.unanswered == len(arrivals(200.0, 0.3, seed=3)) - 10
    assert found.p99_ms > 200.0


def test_a_client_that_gives_up_sends_no_late_request() -> None:
    def stalls(number: int) -> bytes:
        time.sleep(0.5 if number == 10 else 0.0)
        return ANSWER

    with serving(stalls) as url:
        found = measure(
            url, BODIES, rate=200.0, seconds=1.0, connections=2, seed=3, give_up_ms=50.0, within_ms=100.0
        )
    asked = len(arrivals(200.0, 1.0, seed=3))
    assert found.answered + found.unsent == asked
    assert found.unsent > asked / 4
    assert 0.9 < found.within < 1.0  # the one that stalled, and one that was under way behind it, took longer
    assert found.sent_a_second < found.asked_a_second


@pytest.mark.parametrize(
    ("p99_ms", "lag_ms", "busy", "limited"),
    [
        (0.2, 0.09, 0.5, False),
        (0.2, 0.11, 0.5, True),
        (10.0, 0.9, 0.5, False),
        (10.0, 1.1, 0.5, True),
        (10.0, 0.9, 0.96, True),
    ],
)
def test_the_client_says_when_it_was_the_limit(
    p99_ms: float, lag_ms: float, busy: float, limited: bool
) -> None:
    point = OpenPoint(
        asked_a_second=1.0,
        sent_a_second=1.0,
        answered_a_second=1.0,
        answered=1,
        p50_ms=0.1,
        p99_ms=p99_ms,
        p999_ms=p99_ms,
        within=1.0,
        errors=0,
        refused=0,
        lost=0,
        unsent=0,
        unanswered=0,
        lag_p99_ms=lag_ms,
        busy=busy,
    )
    assert point.limited_by_client is limited
