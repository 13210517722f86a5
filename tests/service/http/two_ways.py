"""One service with the native core and one without it: what each answers to the same body, and counts."""

from __future__ import annotations

import re
from time import perf_counter
from typing import Any, Literal

import msgspec

from service.http.prediction import Prediction
from service.settings import Settings
from service.wire import Asked
from tests.running import RunningApp

Pair = tuple[RunningApp, RunningApp]


def start(native: Literal["on", "off"], arms: tuple[str, ...], **options: Any) -> RunningApp:
    """The service one way; its bids have a multiplier and a floor."""
    return RunningApp(Settings(arms=arms, native=native, bid_multiplier=1.5, bid_floor=0.00001, **options))


class Outcome(msgspec.Struct):
    """What a client gets, and what is counted."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes
    counted: dict[str, Any]
    is_plain: bool = msgspec.field(default=False)


def outcome_of(app: RunningApp, body: bytes, kind: bytes, arm: bytes = b"wide") -> Outcome:
    """What the service does with a body of that Content-Type, without HTTP."""

    async def answer() -> Outcome:
        prediction = Prediction(app.app.predict_service, perf_counter())
        try:
            prediction.read_headers({b"content-type": kind, b"x-arm": arm})
            pctrs = await prediction.submit(body)
            head, found = prediction.answer(pctrs)
            status, headers, is_plain = 200, head.headers, not isinstance(prediction._asked, Asked)
            prediction.end("ok")
        except Exception as error:
            status, headers, found = prediction.refuse(error)
            is_plain = False
        counted = {
            "unknown names": set(prediction.unknown_names),
            "unknown ads": prediction.unknown_ads,
            "user": prediction.user_lookup,
            "bids": (prediction.bids, prediction.no_bids),
        }
        # What a token holds besides its candidate, time and number, differs.
        return Outcome(status, headers, re.sub(rb"[\w-]{40}", b"(token)", found), counted, is_plain)

    return app.runner.run(answer())


def difference(body: bytes, native: Outcome, python: Outcome) -> str:
    """What the core makes of a body and Python does not; nothing if they do the same."""
    if msgspec.structs.replace(native, is_plain=False) == python:
        return ""
    return f"of {body!r}\nthe core makes {native}\nPython makes {python}"


def assert_same(pair: Pair, body: bytes, kind: bytes, arm: bytes = b"wide") -> Outcome:
    """What both services do, of which the first has the core. Fails if they do not do the same."""
    native, python = (outcome_of(app, body, kind, arm) for app in pair)
    assert not difference(body, native, python), difference(body, native, python)
    return native
