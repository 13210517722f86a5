"""What is known of users and ads besides what a request says: the store's interface, its values, its address.

A value is a MessagePack map, field -> raw value, for one user or one ad. It knows neither schemas nor
requests: who reads a value has the encoder judge it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, Self

import msgspec

from service.errors import BadConfiguration

# A value for every user that was asked for: None for one who is unknown, UNTOLD where the store cannot say.
# None for all of them where it can say nothing.
Values = Sequence[bytes | None] | None
UNTOLD = b""

# Why features of a user stay at their defaults; INVALID: what the store has is not what the schema says.
UNKNOWN_USER, LATE, UNAVAILABLE, INVALID = "unknown_user", "late", "unavailable", "invalid"
IS_MISSING_REASONS = (UNKNOWN_USER, LATE, UNAVAILABLE, INVALID)

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(dict[str, Any])


class FeatureStore(Protocol):
    """Users' values by id, at once or soon; and all ads, now and then.

    A store that is down, slow or broken says so and raises nothing: requests go on without it.
    """

    async def open(self) -> None:
        """Connect; returns also where that did not work, and goes on trying."""

    async def close(self) -> None:
        """Let go of everything; reads that are under way are told that the store cannot say."""

    def refresh(self) -> None:
        """Read what is there now: a store that is replaced as a whole may have been."""

    def read_users(self, user_ids: Sequence[str], then: Callable[[Values], None]) -> None:
        """Read all of them in one go; `then` is called once, from within this call or later."""

    def ads(self) -> Iterator[list[tuple[str, bytes]]]:
        """All ads and their values, in pieces; blocks, so call it in a thread. Raises StoreUnavailable.

        An ad may come twice; the later value holds.
        """


class FeatureWriter(Protocol):
    """Takes the rows of one load. Left by an exception, it undoes what it can (its class says what)."""

    def __enter__(self) -> Self:
        """Begin."""

    def __exit__(self, *exception: object) -> None:
        """Make what was written visible; or, after an exception, do not."""

    def write(self, rows: Sequence[tuple[str, bytes]]) -> None:
        """Ids and values; of one id, the last value holds. Raises StoreUnavailable, BadConfiguration."""


class StoreUnavailable(Exception):
    """The store cannot be read or written now; the message is one line."""


def pack(features: Mapping[str, Any]) -> bytes:
    """Field -> raw value, as the store keeps it."""
    return _encoder.encode(features)


def unpack(value: bytes) -> dict[str, Any]:
    """What `pack` made; raises ValueError for anything else."""
    try:
        return _decoder.decode(value)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError(f"a value must be a MessagePack map of names ({error}); load it again") from None


def key_of(name: str) -> bytes:
    """The bytes of an id, of any text."""
    return name.encode("utf-8", "surrogatepass")


def missing_library(name: str) -> BadConfiguration:
    """The refusal where the library of a store is not installed."""
    return BadConfiguration(f"'{name}' must be installed for this store; pip install 'bidlight[service]'")
