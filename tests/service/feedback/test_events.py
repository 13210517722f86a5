"""A body of events is read whole, an event that is none beside the others, and nothing else is taken."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest

from service.errors import InvalidField, MalformedBody
from service.feedback.events import Event, decode_events
from service.wire import JSON, MSGPACK, Codec

CODECS = [JSON, MSGPACK]
SHOWN = {"token": "t", "type": "impression"}


def encoded(value: Any, codec: Codec) -> bytes:
    return msgspec.json.encode(value) if codec is JSON else msgspec.msgpack.encode(value)


def decoded(events: Any, codec: Codec, **more: Any) -> list[Event | None]:
    return decode_events(encoded({"events": events, **more}, codec), codec, 10)


@pytest.mark.parametrize("codec", CODECS)
def test_events_are_read(codec: Codec) -> None:
    events = [SHOWN, {"token": "u", "type": "click", "at": 1_700_000_000_000}, SHOWN | {"at": 1.5}]
    found = [Event("t", "impression"), Event("u", "click", 1.7e12), Event("t", "impression", 1.5)]
    assert decoded(events, codec) == found
    assert decoded([], codec) == []


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize(
    "bad",
    [
        None,
        5,
        [],
        {},
        {"token": "t"},
        {"type": "click"},
        SHOWN | {"type": "view"},
        SHOWN | {"token": 5},
        SHOWN | {"at": "now"},
        SHOWN | {"at": -1},
        SHOWN | {"at": 1e300},
        SHOWN | {"other": 1},
        SHOWN | {"token": {"deep": [[1]]}},
    ],
)
def test_what_is_no_event_is_none_and_the_others_are_read(bad: Any, codec: Codec) -> None:
    assert decoded([SHOWN, bad, SHOWN], codec) == [Event("t", "impression"), None, Event("t", "impression")]


@pytest.mark.parametrize("at", [math.nan, math.inf, -math.inf])
def test_a_time_is_a_number(at: float) -> None:
    assert decoded([SHOWN | {"at": at}], MSGPACK) == [None]


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize(
    ("body", "path"),
    [
        ([], "$"),
        ({}, "$"),
        ({"events": {}}, "$.events"),
        ({"events": None}, "$.events"),
        ({"events": [], "other": 1}, "$"),
        ({"events": [SHOWN] * 11}, "$.events"),
        ({"events": [5] * 11}, "$.events"),
    ],
)
def test_what_is_no_list_of_events_is_refused_by_its_path(body: Any, path: str, codec: Codec) -> None:
    with pytest.raises(InvalidField) as caught:
        decode_events(encoded(body, codec), codec, 10)
    assert caught.value.path == path


@pytest.mark.parametrize(
    ("body", "codec"),
    [
        (b"", JSON),
        (b'{"events": [', JSON),
        (b'{"events": [{"token": "\xff", "type": "click"}]}', JSON),
        (b'{"events": [{"token": ' + b"[" * 100_000 + b"]" * 100_000 + b"}]}", JSON),
        (b"\x81\xa6events\xdd", MSGPACK),
        (b"\x81\xa6events\x91" + b"\x91" * 100_000, MSGPACK),
    ],
)
def test_what_cannot_be_read_is_malformed(body: bytes, codec: Codec) -> None:
    with pytest.raises(MalformedBody, match=f"must be {codec.name}"):
        decode_events(body, codec, 10)
