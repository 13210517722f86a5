"""Sockets that share a port, and the cores of workers."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from service.errors import BadConfiguration
from service.process.slots import cores_of_workers
from service.process.sockets import bind_beside, bind_together
from service.settings import Settings

CORES = sorted(os.sched_getaffinity(0))


@pytest.fixture
def sockets() -> Iterator[list[socket.socket]]:
    with ExitStack() as stack:
        yield [stack.enter_context(each) for each in bind_together("127.0.0.1", 0, 3)]


def test_sockets_share_a_port_and_the_connections(sockets: list[socket.socket]) -> None:
    address = sockets[0].getsockname()
    assert {each.getsockname() for each in sockets} == {address}
    for each in sockets:
        each.listen(64)
        each.settimeout(0.0)
    clients = [socket.create_connection(address) for _ in range(60)]
    shares = []
    for each in sockets:
        taken = []
        while True:
            try:
                taken.append(each.accept()[0])
            except BlockingIOError:
                break
        shares.append(len(taken))
        for connection in (*taken,):
            connection.close()
    for client in clients:
        client.close()
    assert sum(shares) == 60
    assert min(shares) > 0  # all 60 pass one socket by once in 10 billion times


def test_a_port_shared_by_another_service_is_taken(sockets: list[socket.socket]) -> None:
    sockets[0].listen()
    with pytest.raises(BadConfiguration, match="Address already in use"):
        bind_together("127.0.0.1", sockets[0].getsockname()[1], 2)


def test_a_socket_joins_those_that_listen(sockets: list[socket.socket]) -> None:
    sockets[0].listen()
    with bind_beside(sockets[0]) as another:
        assert another.getsockname() == sockets[0].getsockname()


def test_a_host_that_is_none_is_said() -> None:
    with pytest.raises(BadConfiguration, match=r"listen on at 192\.0\.2\.1 \(got 0: "):
        bind_together("192.0.2.1", 0, 2)


def test_workers_keep_to_a_core_where_there_is_one_each() -> None:
    def cores(workers: int, pin: str) -> list[int | None]:
        return cores_of_workers(Settings(workers=workers, pin_workers=pin))  # type: ignore[arg-type]

    count = len(CORES)
    assert cores(count, "auto") == cores(count, "on") == CORES
    assert cores(count, "off") == [None] * count
    assert cores(count + 1, "auto") == [None] * (count + 1)
    assert cores(1, "on") == CORES[:1]
    if count > 1:
        assert cores(count - 1, "auto") == [None] * (count - 1)
    with pytest.raises(BadConfiguration, match=f"at most the cores of this process, {count}"):
        cores(count + 1, "on")
