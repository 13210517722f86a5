"""What is kept of a request that shadows are to score: its body and what was answered; it scores nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from service.wire import JSON, MSGPACK, Codec

# What a copy takes beside the bytes that it holds, about.
COPY_BYTES = 1_000


class Copy:
    """A request that shadows of the arm that answers are to score. `end` hands it on, by `add`.

    `user` are the stored features of its user, if they were looked up. Nothing else of the request is kept:
    the shadow reads the body anew, as its own schema wants it.
    """

    __slots__ = ("_add", "answer", "body", "codec", "own", "user")

    own: NDArray[np.float64]

    def __init__(self, body: bytes, codec: Codec, add: Callable[[Copy], object]) -> None:
        self.body, self.codec = body, codec
        self.user: dict[str, Any] | None = None
        self.answer = b""
        self._add = add

    @property
    def size(self) -> int:
        """Bytes that it holds, about."""
        return COPY_BYTES + len(self.body) + len(self.answer) + self.own.nbytes

    def answered(self, own: NDArray[np.float64], answer: bytes) -> None:
        """Keep a copy of the bundle's own pCTRs [n], and the answer, if it has tokens."""
        self.own = np.array(own)
        self.answer = answer

    def end(self) -> None:
        """The answer is out."""
        self._add(self)


class NoCopy(Copy):
    """Of a request that shadows have no time for: `end` tells that it was answered, and nothing is kept."""

    __slots__ = ()

    def answered(self, own: NDArray[np.float64], answer: bytes) -> None:
        """Keep nothing."""


class _Result(msgspec.Struct, gc=False):
    token: str


class _ResultColumns(msgspec.Struct, gc=False):
    token: list[str]


class _Answer(msgspec.Struct, gc=False):
    """Of an answer what a shadow needs; to read numbers and ids takes longer than the rest."""

    results: list[_Result] | _ResultColumns


_decoders = {
    JSON.name: msgspec.json.Decoder(_Answer).decode,
    MSGPACK.name: msgspec.msgpack.Decoder(_Answer).decode,
}


def tokens_of(answer: bytes, codec: Codec) -> list[str]:
    """The tokens in an answer of this service, in the order of its candidates."""
    results = _decoders[codec.name](answer).results
    return [result.token for result in results] if isinstance(results, list) else results.token
