"""What goes over a connection to a Redis, as hiredis writes and reads it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from service.features.redis_address import Command
from service.features.store import missing_library

try:
    import hiredis
except ModuleNotFoundError:
    raise missing_library("hiredis") from None

ProtocolError = hiredis.ProtocolError
Reader = hiredis.Reader


def packed(commands: Iterable[Command]) -> bytes:
    """Commands as bytes, in order."""
    pack: Any = hiredis.pack_command
    return b"".join([pack(command) for command in commands])


def is_error(reply: Any) -> bool:
    """Whether a reply says that its command failed."""
    return isinstance(reply, hiredis.HiredisError)
