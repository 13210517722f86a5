"""The bodies of feedback as structs, in JSON or MessagePack: events in, counts out; it knows no token."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal, overload

import msgspec
from msgspec import Meta, Raw

from service.errors import InvalidField
from service.reading import invalid_part, malformed
from service.wire import JSON, Codec

EventType = Literal["impression", "click"]
IMPRESSION: EventType = "impression"
CLICK: EventType = "click"
MAX_EVENTS = 100_000
# An event in JSON has two commas, and one behind it.
_COMMAS = 3
# Until the year 3000.
_MAX_AT = 32_503_680_000_000.0


class Event(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """An ad was shown, or clicked."""

    token: Annotated[str, Meta(description="of the ad's result in an answer")]
    type: EventType
    at: Annotated[
        Annotated[float, Meta(ge=0.0, le=_MAX_AT)] | None,
        Meta(description="when, Unix time in milliseconds; left out: now"),
    ] = None


class FeedbackRequest(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """What happened to ads. An event that is sent again counts once, so any request may be repeated."""

    events: Annotated[list[Event], Meta(max_length=MAX_EVENTS)]


class FeedbackAnswer(msgspec.Struct, gc=False):
    """How many events were counted, or had been before, and how many were refused, by reason."""

    counted: int = 0
    duplicates: int = 0
    refused: dict[str, int] = {}


class _Outline(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    events: Annotated[list[Raw], Meta(max_length=MAX_EVENTS)]


class _Decoders:
    """Decoders of one encoding."""

    def __init__(self, make: Callable[[Any], Any]) -> None:
        self.request = make(FeedbackRequest).decode
        self.outline = make(_Outline).decode
        self.event = make(Event).decode


_OF_JSON, _OF_MSGPACK = _Decoders(msgspec.json.Decoder), _Decoders(msgspec.msgpack.Decoder)


def decode_events(body: bytes, codec: Codec, max_events: int) -> Sequence[Event | None]:
    """The events in a body, None for each that is none. Raises MalformedBody, InvalidField."""
    decoders = _OF_JSON if codec is JSON else _OF_MSGPACK
    events: Sequence[Event | None]
    try:
        try:
            events = decoders.request(body).events
        except msgspec.ValidationError:
            if codec is JSON:
                _refuse_many(body.count(b",") // _COMMAS, max_events)
            events = _read_one_by_one(body, decoders)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise malformed(error, codec) from None
    _refuse_many(len(events), max_events)
    return events


def _refuse_many(events: int, max_events: int) -> None:
    """Refuse more events than a list may have: bids wait as long as they are read one by one."""
    if events > max_events:
        raise InvalidField(
            f"'events' must be {max_events} at most (got {events} or more); split the request",
            path="$.events",
        )


class _OneByOne(Sequence[Event | None]):
    """Events each of which is decoded when it is taken: one that is none takes the time of an error."""

    def __init__(self, raws: list[Raw], decode: Callable[[Raw], Event]) -> None:
        self._raws = raws
        self._decode = decode

    def __len__(self) -> int:
        return len(self._raws)

    @overload
    def __getitem__(self, place: int) -> Event | None: ...

    @overload
    def __getitem__(self, place: slice) -> list[Event | None]: ...

    def __getitem__(self, place: int | slice) -> Event | list[Event | None] | None:
        if isinstance(place, slice):
            return [*map(self._event_or_none, self._raws[place])]
        return self._event_or_none(self._raws[place])

    def _event_or_none(self, raw: Raw) -> Event | None:
        try:
            return self._decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None


def _read_one_by_one(body: bytes, decoders: _Decoders) -> _OneByOne:
    """The same where not all are events: one that is none loses no other."""
    try:
        outline: _Outline = decoders.outline(body)
    except msgspec.ValidationError as error:
        raise invalid_part(error) from None
    return _OneByOne(outline.events, decoders.event)
