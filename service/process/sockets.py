"""Several sockets on one port (SO_REUSEPORT); it knows nothing of processes.

The kernel assigns a new connection to one of the sockets by a hash of its addresses, so workers neither race
for a connection nor wake each other.
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct
from contextlib import suppress

from service.errors import BadConfiguration
from service.settings import Settings

_ATTACH_FILTER = 26  # SO_ATTACH_FILTER of Linux
_SYN, _ACK = 0x02, 0x10


def bind_together(host: str, port: int, count: int) -> list[socket.socket]:
    """`count` sockets on one port (0: a free one), none of them listening. Raises BadConfiguration."""
    if not (hasattr(socket, "SO_REUSEPORT") and hasattr(os, "fork")):
        raise BadConfiguration(
            f"'workers' must be 1 on this system (got {count}); it cannot fork, or share a port"
        )
    try:
        if port:
            # Refuse a port that another service of this user shares: it would share it with this one too.
            _bind(host, port, shared=False).close()
        first = _bind(host, port)
        return [first, *(_bind(host, first.getsockname()[1]) for _ in range(count - 1))]
    except OSError as error:
        raise _refusal("port", host, port, error) from None


def bind_admin(settings: Settings) -> socket.socket | None:
    """The socket of the admin port, not listening, for all processes together; None without such a port.

    Raises BadConfiguration.
    """
    host, port = settings.admin_host, settings.admin_port
    if port is None:
        return None
    try:
        return _bind(host, port, shared=False)
    except OSError as error:
        raise _refusal("admin_port", host, port, error) from None


def bind_beside(other: socket.socket) -> socket.socket:
    """One more socket on the port of `other`. Raises OSError."""
    host, port = other.getsockname()[:2]
    return _bind(host, port)


def listen_admin(admin: socket.socket, backlog: int) -> None:
    """Begin to listen at what `bind_admin` returned. Raises BadConfiguration.

    Another process can bind the port as long as nothing listens there, and can listen first.
    """
    host, port = admin.getsockname()[:2]
    try:
        admin.listen(backlog)
    except OSError as error:
        raise _refusal("admin_port", host, port, error) from None


def _refusal(setting: str, host: str, port: int, error: OSError) -> BadConfiguration:
    return BadConfiguration(
        f"'{setting}' must be one to listen on at {host} (got {port}: {error.strerror or error}); "
        f"choose another with --{setting.replace('_', '-')}"
    )


def drop_new_connections(listening: socket.socket) -> None:
    """Let the kernel begin no more connections at a socket; those that it has begun can still be accepted.

    Closing a socket resets whatever waits in it. A client whose first packet is dropped sends it again after
    a second, when the socket is closed, and is refused. Without this filter (not Linux) some are reset.
    """
    # Classic BPF on the header of TCP, where byte 13 has the flags: drop SYN without ACK, keep all else.
    program = [
        (0x30, 0, 0, 13),  # load the byte
        (0x54, 0, 0, _SYN | _ACK),  # keep these two flags
        (0x15, 0, 1, _SYN),  # only SYN: go on, else leave out one
        (0x06, 0, 0, 0),  # keep no byte of the packet
        (0x06, 0, 0, 0xFFFFFFFF),  # keep all
    ]
    code = b"".join(struct.pack("=HBBI", *instruction) for instruction in program)
    buffer = ctypes.create_string_buffer(code)
    with suppress(OSError):
        listening.setsockopt(
            socket.SOL_SOCKET, _ATTACH_FILTER, struct.pack("HP", len(program), ctypes.addressof(buffer))
        )


def _bind(host: str, port: int, *, shared: bool = True) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        if port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # A free port stays free of others without it: they could bind the same one until this socket listens.
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind((host, port))
    except OSError:
        sock.close()
        raise
    return sock
