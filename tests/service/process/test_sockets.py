"""Sockets that share a port."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from loadtest.processes.ports import free_port
from service.errors import BadConfiguration
from service.process.sockets import (
    bind_admin,
    bind_beside,
    bind_together,
    drop_new_connections,
    listen_admin,
)
from service.settings import Settings


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
    assert min(shares) > 0  # with a probability of 1 in 10 billion, a socket gets none


def test_a_port_of_another_service_is_refused(sockets: list[socket.socket]) -> None:
    sockets[0].listen()
    with pytest.raises(BadConfiguration, match="Address already in use"):
        bind_together("127.0.0.1", sockets[0].getsockname()[1], 2)


def test_nobody_else_gets_a_free_port_before_it_listens() -> None:
    admin = bind_admin(Settings(admin_port=0))
    assert admin is not None
    with admin, socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with pytest.raises(OSError, match="Address already in use"):
            other.bind(admin.getsockname())
        listen_admin(admin, 8)
    with ExitStack() as stack:
        shared = [stack.enter_context(each) for each in bind_together("127.0.0.1", 0, 2)]
        other = stack.enter_context(socket.socket())
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with pytest.raises(OSError, match="Address already in use"):
            other.bind(shared[0].getsockname())


def test_an_admin_port_that_another_listens_on_first_is_refused() -> None:
    admin = bind_admin(Settings(admin_port=free_port()))
    assert admin is not None
    with admin, socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(admin.getsockname())
        other.listen()
        with pytest.raises(BadConfiguration, match=r"'admin_port' must be .* Address already in use"):
            listen_admin(admin, 8)


def test_a_socket_joins_a_listening_one(sockets: list[socket.socket]) -> None:
    sockets[0].listen()
    with bind_beside(sockets[0]) as another:
        assert another.getsockname() == sockets[0].getsockname()


def test_an_invalid_host_is_named() -> None:
    with pytest.raises(BadConfiguration, match=r"listen on at 192\.0\.2\.1 \(got 0: "):
        bind_together("192.0.2.1", 0, 2)


def test_connections_that_have_begun_are_accepted_and_no_new_ones_begin() -> None:
    listening = socket.create_server(("127.0.0.1", 0))
    with listening, socket.create_connection(listening.getsockname()) as begun, socket.socket() as late:
        drop_new_connections(listening)
        late.settimeout(0.3)
        with pytest.raises(TimeoutError):
            late.connect(listening.getsockname())
        begun.sendall(b"what is sent still arrives")
        with listening.accept()[0] as accepted:
            assert accepted.recv(100) == b"what is sent still arrives"
        listening.setblocking(False)
        with pytest.raises(BlockingIOError):
            listening.accept()
