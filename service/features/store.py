"""The interface of a store of users' and ads' features, and the form of its values.

A value is a MessagePack map, field -> raw value, for one user or one ad. It knows neither schemas nor
requests: the encoder of an arm judges the raw values.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, Self

import msgspec

from service.errors import BadConfiguration

logger = logging.getLogger("bidlight")

# A value for every user that was asked for: None for an unknown user, UNREAD where the store did not answer;
# None for all of them where it answered nothing.
Values = Sequence[bytes | None] | None
UNREAD = b""

# Why features of a user stay at their defaults. INVALID: what the store has does not fit the schema. EMPTIED:
# it knows hardly any user of late, and knew more before.
UNKNOWN_USER, EMPTIED = "unknown_user", "emptied"
LATE, UNAVAILABLE, INVALID = "late", "unavailable", "invalid"
IS_MISSING_REASONS = (UNKNOWN_USER, EMPTIED, LATE, UNAVAILABLE, INVALID)

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(dict[str, Any])


class FeatureStore(Protocol):
    """Users' values by id, for requests; and all ads, for the catalogue.

    Reads of users raise nothing when the store is down, slow or broken: requests go on without it.
    `needs_refresh` says that what was there is gone since the last refresh.
    """

    needs_refresh: bool

    async def open(self) -> None:
        """Connect; where that fails, go on trying in the background."""

    async def close(self) -> None:
        """Close everything; reads in flight end without values."""

    async def refresh(self, limit: LossLimit) -> bool:
        """Look for users that were replaced as a whole, and use the new ones; whether there were any.

        Raises StoreUnavailable, LossRefused among it; then those from before stay.
        """

    def read_users(self, user_ids: Sequence[str], then: Callable[[Values], None]) -> None:
        """Read all of them at once; `then` is called once, from within this call or later."""

    def ads(self) -> Iterator[list[tuple[str, bytes]]]:
        """All ads and their values, in batches; it blocks, so call it in a thread. Raises StoreUnavailable.

        An ad may come twice; the last value counts.
        """


class FeatureWriter(Protocol):
    """Writes the rows of one load. After an exception it undoes what it can (its class says what).

    `is_undone` tells whether that is all. An id can have `longest_key` bytes; None is no limit.
    """

    is_undone: ClassVar[bool]
    longest_key: ClassVar[int | None]

    def __enter__(self) -> Self:
        """Begin."""

    def __exit__(self, *exception: object) -> None:
        """Make the rows visible, unless there was an exception."""

    def write(self, rows: Sequence[tuple[str, bytes]]) -> None:
        """Ids and values; of one id, the last value counts. Raises StoreUnavailable, BadConfiguration."""


class StoreUnavailable(Exception):
    """The store cannot be read or written; the message is one line."""


class LossRefused(StoreUnavailable):
    """A refresh would lose more than is allowed, so what was there stays; the message is one line."""


@dataclass(frozen=True)
class LossLimit:
    """The largest share that a refresh may lose. With `is_asked_for`, a larger loss is told, and accepted."""

    most: float = 1.0
    is_asked_for: bool = False

    def check(self, what: str, before: int, found: int) -> None:
        """Raises LossRefused if of `before` things too many are gone."""
        if found >= before * (1.0 - self.most):
            return
        text = f"{found:,} {what} were found where there were {before:,}: max_refresh_loss is {self.most:g}"
        if not self.is_asked_for:
            raise LossRefused(
                f"{text}; fill the store again, or have what it holds accepted by SIGHUP or a restart"
            )
        logger.warning("a reload takes what the store holds: %s", text)


def pack(features: Mapping[str, Any]) -> bytes:
    """Field -> raw value, as bytes in the store."""
    return _encoder.encode(features)


def unpack(value: bytes) -> dict[str, Any]:
    """The inverse of `pack`; raises ValueError for other bytes."""
    try:
        return _decoder.decode(value)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError(f"a value must be a MessagePack map of names ({error}); load it again") from None


def key_of(name: str) -> bytes:
    """The bytes of an id, which may be any text."""
    return name.encode("utf-8", "surrogatepass")


def missing_library(name: str) -> BadConfiguration:
    """The error where the library of a store is not installed."""
    return BadConfiguration(f"'{name}' must be installed for this store; pip install 'bidlight[service]'")
