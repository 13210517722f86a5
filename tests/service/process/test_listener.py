"""New connections wait when there is no room, and are accepted when there is; trouble is told, and passes."""

from __future__ import annotations

import asyncio
import gc
import resource
import socket
from collections.abc import Iterator
from contextlib import AsyncExitStack, suppress

import pytest

from service.http.connection import HttpConnection
from service.process import listener as listener_module
from service.process.listener import (
    ACCEPTS_AT_ONCE,
    ACCEPTS_WHEN_BEHIND,
    CONNECTIONS,
    SLOW_SECONDS,
    SYSTEM,
    Listener,
    close_longest_waiting,
    most_connections,
)
from service.process.server import server_config
from service.settings import Settings
from tests.running import RunningApp
from tests.tiny_bundle import write_tiny_bundle
from tests.wire import Wire


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApp]:
    running = RunningApp(Settings(arms=(f"a={write_tiny_bundle(tmp_path_factory.mktemp('b') / 'a')}",)))
    yield running
    running.close()


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the listener logs."""
    found: list[str] = []
    for level in ("warning", "error"):
        monkeypatch.setattr(listener_module.logger, level, lambda text, *values: found.append(text % values))
    return found


class Listening:
    """A listener on a free port, and the reasons for which it has paused."""

    def __init__(
        self, app: RunningApp, listening: socket.socket | None = None, *, is_behind: bool = False
    ) -> None:
        self.wire = Wire(app.app)
        self.pauses: list[str] = []
        if listening is None:
            listening = socket.create_server(("127.0.0.1", 0))
        self.address = listening.getsockname()
        connections = self.wire.state.connections
        self.listener = Listener(
            listening,
            self._make,
            connections,
            self.pauses.append,
            128,
            is_behind=lambda: is_behind,
        )

    def _make(self) -> HttpConnection:
        return self.wire.make()

    async def ask(self) -> tuple[bytes, asyncio.StreamWriter]:
        """The first line of an answer on a new connection, and the connection."""
        reader, writer = await asyncio.open_connection(*self.address)
        writer.write(b"GET /healthz HTTP/1.1\r\n\r\n")
        return await asyncio.wait_for(reader.readline(), 5), writer


def test_without_a_limit_of_files_there_is_none_of_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert most_connections() > 1_000_000_000


def test_the_limit_of_files_leaves_room_for_files() -> None:
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    assert 0 < most_connections() < files
    assert files - most_connections() >= min(files // 2, 64)


@pytest.mark.parametrize(("is_behind", "at_once"), [(False, ACCEPTS_AT_ONCE), (True, ACCEPTS_WHEN_BEHIND)])
def test_few_connections_are_accepted_at_once_while_requests_wait(
    app: RunningApp, is_behind: bool, at_once: int
) -> None:
    async def exchange() -> tuple[int, int]:
        listening = Listening(app, is_behind=is_behind)
        clients = [socket.create_connection(listening.address) for _ in range(2 * ACCEPTS_AT_ONCE)]
        opened = listening.wire.state.connections
        most = 0
        async with asyncio.timeout(10):
            while len(opened) < len(clients):
                before = len(opened)
                await asyncio.sleep(0)
                most = max(most, len(opened) - before)
        listening.listener.close()
        for client in clients:
            client.close()
        return most, len(opened)

    most, opened = app.runner.run(exchange())
    assert most <= at_once
    assert opened == 2 * ACCEPTS_AT_ONCE


def test_connections_wait_until_others_have_closed(
    app: RunningApp, monkeypatch: pytest.MonkeyPatch, logged: list[str]
) -> None:
    monkeypatch.setattr(listener_module, "most_connections", lambda: 2)
    monkeypatch.setattr(listener_module, "PAUSE_SECONDS", 0.02)

    async def exchange() -> list[str]:
        listening = Listening(app)
        busy = [(await asyncio.open_connection(*listening.address))[1] for _ in range(2)]
        for writer in busy:  # within a request, so that they are not idle
            writer.write(b"GET /healthz HTTP/1.1\r\n")
        await asyncio.sleep(0.05)
        waiting = asyncio.create_task(listening.ask())
        await asyncio.sleep(0.3)
        assert not waiting.done()
        assert len(listening.wire.state.connections) == 2
        busy[0].close()
        line, writer = await waiting
        assert line == b"HTTP/1.1 200 OK\r\n"
        listening.listener.close()
        for each in (*busy, writer):
            each.close()
        return listening.pauses

    pauses = app.runner.run(exchange())
    assert set(pauses) == {CONNECTIONS}
    assert len(pauses) > 3
    assert {each[:34] for each in logged} == {"new connections wait: 2 are open, "}


def test_at_the_limit_the_longest_idle_connections_make_room(
    app: RunningApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener_module, "most_connections", lambda: 3)

    async def exchange() -> None:
        listening = Listening(app)
        idle = [(await listening.ask())[1] for _ in range(3)]
        for _ in range(4):
            line, writer = await listening.ask()
            assert line == b"HTTP/1.1 200 OK\r\n"
            idle.append(writer)
        listening.listener.close()
        for each in idle:
            each.close()

    app.runner.run(exchange())


def test_what_waits_longest_for_its_client_is_closed_first(
    app: RunningApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener_module, "CLOSED_AT_ONCE", 1)

    async def exchange() -> list[list[bool]]:
        async with AsyncExitStack() as stack:
            slow, older, newer, busy = [await stack.enter_async_context(Wire(app.app)) for _ in range(4)]
            await slow.send(b"POST /predict HTTP/1.1\r\nHost: a")
            for wire in (older, newer):
                await asyncio.sleep(0.01)
                await wire.send(b"GET /healthz HTTP/1.1\r\n\r\n")
                await wire.receive(1)
            await asyncio.sleep(0.01)
            busy.protocol.data_received(b"GET /metrics HTTP/1.1\r\n\r\n")
            wires, now = (slow, older, newer, busy), asyncio.get_running_loop().time()
            found = []
            for later in (0.0, SLOW_SECONDS + 1.0, SLOW_SECONDS + 1.0, SLOW_SECONDS + 1.0):
                open_ones = [wire.protocol for wire in wires if not wire.transport.is_closing()]
                close_longest_waiting(reversed(open_ones), now + later)
                found.append([wire.transport.is_closing() for wire in wires])
            return found

    assert app.runner.run(exchange()) == [
        [False, True, False, False],  # the slow one has only begun
        [True, True, False, False],
        [True, True, True, False],
        [True, True, True, False],  # what is answered is never closed
    ]


def test_files_that_others_have_taken_are_waited_for(app: RunningApp, logged: list[str]) -> None:
    """The process has fewer connections than it may have, and yet no file for another (EMFILE)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)

    async def exchange() -> list[str]:
        listening = Listening(app)
        client = socket.socket()
        client.setblocking(False)
        gc.collect()  # or what others have left is closed in between
        filler = [socket.socket() for _ in range(80)]  # half of the files are more than one connection
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(each.fileno() for each in filler) + 1, hard))
        try:
            with suppress(OSError):  # there may be free numbers below
                filler.extend(socket.socket() for _ in range(hard))
            await asyncio.get_running_loop().sock_connect(client, listening.address)
            await asyncio.sleep(0.35)
            assert len(listening.wire.state.connections) == 0
            for each in filler:
                each.close()
            await asyncio.sleep(0.2)
            assert len(listening.wire.state.connections) == 1
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        line, writer = await listening.ask()
        assert line == b"HTTP/1.1 200 OK\r\n"
        writer.close()
        client.close()
        listening.listener.close()
        return listening.pauses

    pauses = app.runner.run(exchange())
    assert set(pauses) == {SYSTEM}
    assert set(logged) == {"new connections wait: the system accepts none (Too many open files)"}


def test_an_error_of_accept_neither_spins_nor_closes_the_socket(app: RunningApp) -> None:
    """A socket that does not listen is always ready, and every `accept` fails."""

    async def exchange() -> list[str]:
        with socket.socket() as deaf:
            deaf.bind(("127.0.0.1", 0))
            listening = Listening(app, deaf)
            await asyncio.sleep(0.35)
            assert deaf.fileno() >= 0
            deaf.listen()
            line, writer = await listening.ask()
            assert line == b"HTTP/1.1 200 OK\r\n"
            writer.close()
            listening.listener.close()
            return listening.pauses

    pauses = app.runner.run(exchange())
    assert set(pauses) == {SYSTEM}
    assert 1 <= len(pauses) <= 6


def test_connections_that_wait_at_the_end_are_answered_and_told_to_close(app: RunningApp) -> None:
    async def exchange() -> list[bytes]:
        listening = Listening(app)
        clients = [socket.create_connection(listening.address) for _ in range(100)]
        for client in clients:
            client.sendall(b"GET /healthz HTTP/1.1\r\n\r\n")
        listening.listener.close()  # before the loop could accept any
        await listening.listener.wait_closed()
        answers = []
        for client in clients:
            reader, writer = await asyncio.open_connection(sock=client)
            answers.append(await asyncio.wait_for(reader.read(), 5))
            writer.close()
        return answers

    answers = app.runner.run(exchange())
    assert len(answers) == 100
    assert all(answer.startswith(b"HTTP/1.1 200") for answer in answers)
    assert all(b"connection: close" in answer for answer in answers)


def test_the_configuration_of_the_server_makes_such_connections(app: RunningApp) -> None:
    assert server_config(app.app.settings, app.app).http is HttpConnection
