"""The steps of a request: room in the queue is reserved before they cost anything, and comes back."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from service.errors import InvalidField, Overloaded
from service.features.open import writer_at
from service.features.store import pack
from service.http.prediction import CLIENT_LEFT, Prediction
from service.scoring.meter import OK
from tests.running import RunningApp
from tests.tiny_bundle import tiny_rows

RunApp = Callable[..., RunningApp]
CONTEXT = tiny_rows(1)[0]["context"]
ROOM = 4


def body_of(candidates: int, **others: Any) -> bytes:
    return json.dumps({"candidates": [{}] * candidates, **others}).encode()


@pytest.fixture
def app(run_app: RunApp, tmp_path: Path) -> RunningApp:
    """A service with room for four rows, and a store of one user."""
    url = f"lmdb://{tmp_path}"
    with writer_at(url, "users") as writer:
        writer.write([("u", pack(CONTEXT))])
    return run_app(feature_store=url, feature_timeout_ms=1000.0, max_queued_rows=ROOM, max_candidates=ROOM)


def begun(app: RunningApp) -> Prediction:
    prediction = Prediction(app.app.predict_service, 0.0)
    prediction.read_headers({b"content-type": b"application/json"})
    return prediction


def assert_is_empty(app: RunningApp) -> None:
    """Nothing is under way, and a request that needs all the room gets it."""
    assert app.app.arms[0].predictor.under_way == 0
    assert app.post(body_of(ROOM)).status_code == 200


def test_a_full_queue_refuses_before_a_request_is_encoded(app: RunningApp) -> None:
    bad = body_of(1, context={"hour": "noon"})

    async def scenario() -> None:
        first, second = begun(app), begun(app)
        pctrs = first.submit(body_of(ROOM))
        with pytest.raises(Overloaded) as refused:
            second.submit(bad)
        second.refuse(refused.value)
        first.answer(await pctrs)
        first.end(OK)

    app.runner.run(scenario())
    assert app.post(bad).status_code == 422
    assert_is_empty(app)


def test_requests_whose_users_are_looked_up_never_overfill_the_queue(app: RunningApp) -> None:
    """Those beyond the room are refused at once, before their users are read."""
    lookup = body_of(ROOM // 2, user_id="u")

    async def scenario() -> list[str]:
        found = []
        accepted = []
        for body in (lookup, lookup, lookup, body_of(1)):
            prediction = begun(app)
            try:
                accepted.append((prediction, prediction.submit(body)))
                found.append("accepted")
            except Overloaded as error:
                prediction.refuse(error)
                found.append("refused")
        for prediction, pctrs in accepted:
            prediction.answer(await pctrs)
            prediction.end(OK)
        return found

    assert app.runner.run(scenario()) == ["accepted", "accepted", "refused", "refused"]
    assert app.metrics()['bidlight_user_lookups_total{arm="control"}'] == 2
    assert_is_empty(app)


def test_room_comes_back_from_requests_that_fail_or_leave(app: RunningApp) -> None:
    async def end(body: bytes) -> None:
        prediction = begun(app)
        with pytest.raises(InvalidField) as refused:
            await prediction.submit(body)
        prediction.refuse(refused.value)

    async def leave() -> None:
        prediction = begun(app)
        outcome = prediction.submit(body_of(ROOM, user_id="u"))
        outcome.cancel()
        prediction.end(CLIENT_LEFT)
        await app.app.predict_service.users.drain()  # type: ignore[union-attr]

    for _ in range(3):
        app.runner.run(end(body_of(ROOM, context={"hour": "noon"})))
        app.runner.run(end(body_of(ROOM, user_id="u", context={"hour": "noon"})))
        app.runner.run(leave())
    assert_is_empty(app)


def test_a_cancelled_task_gives_its_room_back(app: RunningApp) -> None:
    async def scenario() -> None:
        task = asyncio.create_task(app.client.post("/predict", content=body_of(ROOM, user_id="u")))
        while not app.app.arms[0].predictor.under_way:
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])

    app.client.headers["content-type"] = "application/json"
    app.runner.run(scenario())
    assert_is_empty(app)


@pytest.mark.parametrize("error", [OSError("the connection is lost"), asyncio.CancelledError()])
def test_an_answer_that_cannot_be_sent_ends_its_request(app: RunningApp, error: BaseException) -> None:
    scope = {
        "type": "http",
        "path": "/predict",
        "method": "POST",
        "headers": [(b"content-type", b"application/json")],
    }

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body_of(ROOM)}

    async def send(_: Any) -> None:
        raise error

    with pytest.raises(type(error)):
        app.runner.run(app.app(scope, receive, send))
    assert app.metrics()['bidlight_requests_total{arm="control",outcome="client_left"}'] == 1
    assert_is_empty(app)
