"""The bodies of feedback as structs, in JSON or MessagePack: events in, counts out; it knows no token."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Raw

from service.errors import InvalidField
from service.reading import invalid_part, malformed
from service.wire import JSON, Codec

EventType = Literal["impression", "click"]
IMPRESSION: EventType = "impression"
CLICK: EventType = "click"
MAX_EVENTS = 100_000
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


def decode_events(body: bytes, codec: Codec, max_events: int) -> list[Event | None]:
    """The events in a body, None for each that is none. Raises MalformedBody, InvalidField."""
    decoders = _OF_JSON if codec is JSON else _OF_MSGPACK
    events: list[Event | None]
    try:
        try:
            events = decoders.request(body).events
        except msgspec.ValidationError:
            events = _decode_one_by_one(body, decoders)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise malformed(error, codec) from None
    if len(events) > max_events:
        raise InvalidField(
            f"'events' must be {max_events} at most (got {len(events)}); split the request", path="$.events"
        )
    return events


def _decode_one_by_one(body: bytes, decoders: _Decoders) -> list[Event | None]:
    """The same where not all are events: one that is none loses no other."""
    try:
        outline: _Outline = decoders.outline(body)
    except msgspec.ValidationError as error:
        raise invalid_part(error) from None
    return [_event_or_none(raw, decoders) for raw in outline.events]


def _event_or_none(raw: Raw, decoders: _Decoders) -> Event | None:
    try:
        event: Event = decoders.event(raw)
    except msgspec.ValidationError:
        return None
    return event
