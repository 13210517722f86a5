"""A line of the log of examples: a request as it was sent, the answer to it, and what the service added.

Nothing in it is taken apart until the log is joined with the events: the service only writes down the bytes
that it has anyway. It knows no file, no schema and no event.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
from msgspec import Raw

from service.errors import InvalidField, MalformedBody
from service.reading import KnownFields, decode_request
from service.wire import JSON, MAX_CANDIDATES, MSGPACK, Codec, PredictAnswer, PredictRequest, ResultColumns

# What a line has beside its bodies, about.
_OTHER_BYTES = 200


@dataclass(slots=True, eq=False)
class SentRequest:
    """The body of a request that is to be logged, and the features of its user that a store had, if any."""

    body: bytes
    codec: str
    user: dict[str, Any] | None = None


@dataclass(slots=True, eq=False)  # to freeze it would take as long again
class Example:
    """A request and the body of its answer, at a Unix time in milliseconds; one of so large a `share`."""

    sent: SentRequest
    answer: bytes
    at: int
    share: float


class ExampleLine(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the log has of an example. Bodies in JSON stand there as they are, those in MessagePack in base64.

    `user` is what the feature store had of the request's user, absent where it was not asked.
    """

    at: int
    share: float
    codec: Literal["JSON", "MessagePack"]
    request: Raw
    answer: Raw
    user: dict[str, Any] | None = None


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(ExampleLine).decode
_bytes_of = msgspec.json.Decoder(bytes).decode


def weight_of(example: Example) -> int:
    """About how many bytes an example takes."""
    return len(example.sent.body) + len(example.answer) + _OTHER_BYTES


def line_of(example: Example) -> bytes:
    """An example as a line without its end; empty if no line can say what the store had of the user."""
    sent = example.sent
    codec = JSON if sent.codec == JSON.name else MSGPACK
    try:
        request, answer = _on_one_line(sent.body, codec), _on_one_line(example.answer, codec)
        name: Any = codec.name
        return _encode(ExampleLine(example.at, example.share, name, request, answer, sent.user))
    except (msgspec.MsgspecError, TypeError, ValueError, RecursionError):
        return b""


def _on_one_line(body: bytes, codec: Codec) -> Raw:
    if codec is MSGPACK:
        return Raw(_encode(body))
    # In JSON an end of a line is space between values: in a string it is written as \n.
    return Raw(msgspec.json.format(body, indent=-1) if b"\n" in body or b"\r" in body else body)


@dataclass(frozen=True, eq=False)
class ReadExample:
    """A line that was read: the answer, its results by column, and the body of the request, still unread."""

    line: ExampleLine
    answer: PredictAnswer
    tokens: Sequence[str]
    pctrs: Sequence[float]
    bids: Sequence[float | None]
    body: bytes
    codec: Codec

    def request(self, known: KnownFields) -> PredictRequest:
        """The request as the service reads it, for these fields. Raises ServiceError."""
        return decode_request(self.body, self.codec, known, MAX_CANDIDATES)


def read_line(line: bytes) -> ReadExample | None:
    """The example of a line; None of one that is cut off, or is none."""
    try:
        found = _decode(line)
        if found.codec == MSGPACK.name:
            codec, body, answered = MSGPACK, _bytes_of(found.request), _bytes_of(found.answer)
        else:
            codec, body, answered = JSON, bytes(found.request), bytes(found.answer)
        answer = codec.decode_answer(answered)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    results = answer.results
    if isinstance(results, ResultColumns):
        tokens: Any = results.token
        pctrs, bids = results.pctr, results.bid
    else:
        tokens = [result.token for result in results]
        pctrs, bids = [result.pctr for result in results], [result.bid for result in results]
    if tokens is msgspec.UNSET or msgspec.UNSET in tokens or not len(tokens) == len(pctrs) == len(bids):
        return None
    return ReadExample(found, answer, tokens, pctrs, bids, body, codec)


UNREADABLE = (InvalidField, MalformedBody)
"""What the request of a line raises that was none to begin with."""
