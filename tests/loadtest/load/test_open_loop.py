"""The open loop against small real servers: a stall delays every request that was due in it."""

from __future__ import annotations

import socket
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from loadtest.load.open_loop import OpenPoint, answer_length, arrivals, measure, percentile

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
REFUSAL = b"HTTP/1.1 429 Too Many Requests\r\ncontent-length: 0\r\n\r\n"
BODIES = [b'{"id":"1"}']


@contextmanager
def serving(answer: Callable[[int], bytes | None]) -> Iterator[str]:
    """A server that gives `answer(n)` to its n-th request, one at a time; None closes the connection."""
    lock, count = threading.Lock(), iter(range(1_000_000))

    def talk(connection: socket.socket) -> None:
        with connection:
            while connection.recv(65536):
                with lock:
                    found = answer(next(count))
                if found is None:
                    return
                connection.sendall(found)

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


@pytest.mark.parametrize("cut", range(1, len(ANSWER)))
def test_an_answer_s_length_is_known_as_soon_as_its_head_is(cut: int) -> None:
    head = ANSWER.index(b"\r\n\r\n") + 4
    assert answer_length(ANSWER[:cut]) == (len(ANSWER) if cut >= head else 0)


def test_an_answer_without_a_length_is_refused() -> None:
    with pytest.raises(ValueError, match="must have a Content-Length"):
        answer_length(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")


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
    assert (found.errors, found.unanswered) == (2, 0)


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
    assert OpenPoint(1.0, 1.0, 0.1, p99_ms, p99_ms, 0, 0, lag_ms, busy).limited_by_client is limited
