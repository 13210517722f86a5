"""The control socket: whom it lets in, what it finds at its path, and clients that do not behave."""

from __future__ import annotations

import os
import resource
import select
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import msgspec
import pytest

from service.control import socket as control_socket
from service.control.protocol import MAX_COMMAND_BYTES
from service.control.socket import MAX_CONNECTIONS, ControlSocket
from service.errors import BadConfiguration

USER = os.geteuid()
NOBODY = 65534
AS_ROOT = pytest.mark.skipif(USER != 0, reason="only root can ask as another user")


class Served:
    """A control socket that a thread polls; it answers a line with the uid of who sent it, and the line."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.control = ControlSocket(str(path))
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._poll)
        self._thread.start()

    def _poll(self) -> None:
        while not self._is_over.is_set():
            select.select([self.control.fileno()], [], [], 0.02)
            self.control.poll(
                lambda line, user: b"%d %b\n" % (user, line * 10_000 if line == b"much" else line)
            )

    def connect(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(5.0)
        connection.connect(str(self.path))
        return connection

    def stop(self) -> None:
        self._is_over.set()
        self._thread.join()
        self.control.close()


def read_lines(connection: socket.socket, count: int = 1) -> bytes:
    """So many lines, or what there is when the connection closes."""
    received = b""
    while received.count(b"\n") < count:
        part = connection.recv(1 << 16)
        if not part:
            break
        received += part
    return received


def is_closed(connection: socket.socket) -> bool:
    """Whether the other end has closed it, perhaps with bytes unread."""
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    running = Served(tmp_path / "control")
    yield running
    running.stop()


def test_lines_are_answered_in_order_and_who_sends_them_is_known(served: Served) -> None:
    with served.connect() as connection:
        connection.sendall(b"status\n")
        assert read_lines(connection) == b"%d status\n" % USER
        connection.sendall(b"one\ntwo\nthr")
        assert read_lines(connection, 2) == b"%d one\n%d two\n" % (USER, USER)
        connection.sendall(b"ee\n")
        assert read_lines(connection) == b"%d three\n" % USER


def test_only_its_user_may_open_it_from_its_first_moment(tmp_path: Path) -> None:
    """It has its mode without having been given another one later."""
    program = (
        "import os, sys; from service.control.socket import ControlSocket; os.umask(0); events = []\n"
        "sys.addaudithook(lambda name, _: events.append(name))\n"
        "control = ControlSocket(sys.argv[1])\n"
        "mode = os.stat(sys.argv[1]).st_mode\n"
        "print(oct(mode), oct(os.umask(0)), 'socket.bind' in events, 'os.chmod' in events)"
    )
    path = str(tmp_path / "control")
    found = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, check=True)
    assert found.stdout.split() == [oct(stat.S_IFSOCK | 0o600), "0o0", "True", "False"]


def ask_as_nobody(path: Path) -> str:
    program = (
        "import socket, sys; s = socket.socket(socket.AF_UNIX); s.settimeout(5); s.connect(sys.argv[1])\n"
        "print(s.recv(9999).decode())"
    )
    found = subprocess.run(
        ["/usr/bin/env", "python3", "-c", program, str(path)], capture_output=True, text=True, user=NOBODY
    )
    return found.stdout + found.stderr


@AS_ROOT
def test_another_user_cannot_connect_and_is_refused_where_the_mode_lets_it(served: Served) -> None:
    for folder in served.path.parents:  # nobody else may enter what pytest makes
        if folder == Path(tempfile.gettempdir()):
            break
        folder.chmod(0o755)
    assert "PermissionError" in ask_as_nobody(served.path)
    served.path.chmod(0o666)
    assert '"code":"unauthorized"' in ask_as_nobody(served.path)
    with served.connect() as connection:
        connection.sendall(b"status\n")
        assert read_lines(connection) == b"0 status\n"


def test_a_socket_that_a_dead_process_has_left_is_replaced_and_a_living_one_is_not(served: Served) -> None:
    with pytest.raises(BadConfiguration, match="the socket of a living process"):
        ControlSocket(str(served.path))
    with served.connect() as connection:
        connection.sendall(b"status\n")
        assert read_lines(connection) == b"%d status\n" % USER
    left = served.path.with_name("left")
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(left))
        dead.listen()
    ControlSocket(str(left)).close()
    assert not left.exists()


def test_a_living_process_that_hangs_is_alive(tmp_path: Path) -> None:
    path = str(tmp_path / "control")
    with ExitStack() as stack:
        hung = stack.enter_context(socket.socket(socket.AF_UNIX))
        hung.bind(path)
        hung.listen(0)
        waiting = stack.enter_context(socket.socket(socket.AF_UNIX))
        waiting.connect(path)  # its queue is full
        with pytest.raises(BadConfiguration, match="the socket of a living process"):
            ControlSocket(path)


@pytest.mark.parametrize("path", ["file", "folder", "nowhere/control", "x" * 200])
def test_a_path_that_cannot_be_had_is_refused_and_nothing_there_is_touched(tmp_path: Path, path: str) -> None:
    (tmp_path / "file").write_text("content")
    (tmp_path / "folder").mkdir()
    before = os.umask(0o22)
    os.umask(before)
    with pytest.raises(BadConfiguration, match="'control_socket' must be a path at which a socket"):
        ControlSocket(str(tmp_path / path))
    assert (tmp_path / "file").read_text() == "content"
    assert sorted(found.name for found in tmp_path.iterdir()) == ["file", "folder"]
    assert os.umask(before) == before


def test_at_its_end_it_removes_its_own_path_only(tmp_path: Path) -> None:
    path = tmp_path / "control"
    control = ControlSocket(str(path))
    path.unlink()
    another = ControlSocket(str(path))
    control.close()
    control.close()
    assert path.exists()
    another.release()  # as a forked process does
    assert path.exists()


def test_clients_that_hang_delay_nobody_and_are_cut_off(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control_socket, "PATIENCE_SECONDS", 0.3)
    with ExitStack() as stack:
        hanging = [stack.enter_context(served.connect()) for _ in range(3 * MAX_CONNECTIONS)]
        for number, connection in enumerate(hanging):
            if number % 3 == 1:
                with suppress(OSError):  # it may have made room for others
                    connection.sendall(b"half of a comm")
        deaf = stack.enter_context(served.connect())
        deaf.sendall(b"much\n" * 100)  # and it reads none of the answers
        with served.connect() as connection:
            connection.settimeout(0.25)
            connection.sendall(b"status\n")
            assert read_lines(connection) == b"%d status\n" % USER
        for connection in hanging:
            assert is_closed(connection)
        answers = read_lines(deaf, 100)
        assert 0 < answers.count(b"\n") < 100


def test_a_client_that_has_left_harms_nobody(served: Served) -> None:
    for sent in (b"", b"half", b"much\n" * 20):
        with served.connect() as connection:
            connection.sendall(sent)
    with served.connect() as connection:
        connection.sendall(b"status\n")
        assert read_lines(connection) == b"%d status\n" % USER


@pytest.mark.parametrize("end", [b"", b"\n"])
def test_a_line_that_is_too_long_is_refused(served: Served, end: bytes) -> None:
    with served.connect() as connection:
        connection.sendall(b"x" * MAX_COMMAND_BYTES)
        connection.sendall(b"x" + end)
        error = msgspec.json.decode(read_lines(connection))["error"]
        assert error["code"] == "body_too_large"
        assert is_closed(connection)
    with served.connect() as connection:
        connection.sendall(b"x" * MAX_COMMAND_BYTES + b"\n")
        assert len(read_lines(connection)) > MAX_COMMAND_BYTES


def test_without_a_free_descriptor_it_accepts_again_later(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control_socket, "PAUSE_SECONDS", 0.2)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(5.0)
    taken = []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (100, limits[1]))
        try:
            while True:
                taken.append(os.dup(0))
        except OSError:
            pass
        connection.connect(str(served.path))
        connection.sendall(b"status\n")
        connection.settimeout(0.1)
        with pytest.raises(TimeoutError):
            connection.recv(1)
    finally:
        for descriptor in taken:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    connection.settimeout(5.0)
    with connection:
        assert read_lines(connection) == b"%d status\n" % USER
