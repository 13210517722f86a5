"""Clients that ask until they are stopped count every answer, and every one that did not come."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from loadtest.load.askers import asking
from loadtest.processes.ports import free_port
from loadtest.processes.server import Server
from loadtest.traffic.messages import message_of

HEAD = b"HTTP/1.1 %d Some\r\nContent-Length: 2\r\n\r\n"
MESSAGES = [message_of(b"1"), message_of(b"2")]


@contextmanager
def answering(statuses: Sequence[int]) -> Iterator[Server]:
    """A server that answers each connection with these statuses, a body a request, then closes; 0 closes."""
    listener = socket.create_server(("127.0.0.1", 0))

    def talk(connection: socket.socket) -> None:
        with connection:
            for status in statuses:
                if not connection.recv(65536) or not status:
                    return
                connection.sendall(HEAD % status + b"ok")

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threads.append(threading.Thread(target=talk, args=(connection,)))
            threads[-1].start()

    threads = list[threading.Thread]()
    acceptor = threading.Thread(target=accept)
    acceptor.start()
    try:
        yield Server(f"http://127.0.0.1:{listener.getsockname()[1]}", 0, Path())
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        acceptor.join()
        for thread in threads:
            thread.join()


@pytest.mark.parametrize("is_kept", [True, False])
def test_what_is_answered_is_counted_by_status(is_kept: bool) -> None:
    statuses = [200, 429] * 50_000 if is_kept else [200]
    with answering(statuses) as server, asking(server, MESSAGES, count=2, is_kept=is_kept) as account:
        time.sleep(0.2)
    assert account.answered > 0
    assert (account.other_answers > 0) is is_kept
    assert (account.lost, account.refused, account.wrong) == (0, 0, 0)


def test_a_connection_that_closes_under_a_request_lost_it() -> None:
    with answering([200, 200, 0]) as server, asking(server, MESSAGES, count=1) as account:
        time.sleep(0.2)
    assert account.lost > 0
    assert account.answered >= 2 * account.lost


def test_a_connection_that_nobody_accepts_lost_nothing() -> None:
    server = Server(f"http://127.0.0.1:{free_port()}", 0, Path())
    with asking(server, MESSAGES, count=1) as account:
        time.sleep(0.2)
    assert account.refused > 0
    assert (account.lost, account.answered) == (0, 0)


def test_a_judge_finds_wrong_answers() -> None:
    with (
        answering([200] * 1000) as server,
        asking(server, MESSAGES, count=1, judge=lambda index, body: (index, body) == (0, b"ok")) as account,
    ):
        time.sleep(0.2)
    assert 0 < account.wrong <= account.answered / 2 + 1
