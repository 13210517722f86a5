"""The steps of a request: room in the queue is reserved before they cost anything, and comes back."""

from __future__ import annotations

import asyncio
import json
import random
import weakref
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from time import perf_counter
from typing import Any

import pytest

from service.errors import DeadlinePassed, InvalidField, Overloaded
from service.features.store import pack
from service.http.prediction import CLIENT_LEFT, Prediction
from service.scoring.meter import OK
from tests.feature_stores import fill
from tests.running import RunningApp
from tests.tiny_bundle import tiny_rows
from tests.wire import Wire

RunApp = Callable[..., RunningApp]
CONTEXT = tiny_rows(1)[0]["context"]
ROOM = 4


def body_of(candidates: int, **others: Any) -> bytes:
    return json.dumps({"candidates": [{}] * candidates, **others}).encode()


@pytest.fixture
def store(tmp_path: Path) -> str:
    """A store of one user."""
    url = f"lmdb://{tmp_path}"
    fill(url, "users", {"u": pack(CONTEXT)})
    return url


@pytest.fixture
def app(run_app: RunApp, store: str) -> RunningApp:
    """A service with room for four rows, and the store."""
    return run_app(feature_store=store, feature_timeout_ms=1000.0, max_queued_rows=ROOM, max_candidates=ROOM)


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


def test_a_lookup_ends_in_time_for_the_deadline_of_its_request(
    app: RunningApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store may take a second and never answers; the request has less, and is scored without its user."""
    users = app.app.predict_service.users
    assert users is not None
    monkeypatch.setattr(users._store, "read_users", lambda ids, then: None)

    async def scenario() -> None:
        prediction = Prediction(app.app.predict_service, perf_counter())
        prediction.read_headers({b"content-type": b"application/json"})
        prediction.answer(await prediction.submit(body_of(1, user_id="u", tmax_ms=900.0)))
        prediction.end(OK)

    app.runner.run(scenario())
    assert app.metrics()['bidlight_user_is_missing_total{arm="control",reason="late"}'] == 1


def test_a_request_whose_deadline_has_passed_is_refused_before_it_is_encoded(app: RunningApp) -> None:
    bad = body_of(1, context={"hour": "noon"}, tmax_ms=10.0)

    async def scenario() -> None:
        prediction = Prediction(app.app.predict_service, perf_counter() - 1.0)
        prediction.read_headers({b"content-type": b"application/json"})
        with pytest.raises(DeadlinePassed) as refused:
            prediction.submit(bad)
        prediction.refuse(refused.value)

    app.runner.run(scenario())
    assert app.metrics()['bidlight_refusals_total{reason="deadline"}'] == 1
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


def draw_request(draw: random.Random) -> bytes:
    """A whole or truncated request, with or without a user, which may be invalid, too large or too late."""
    given: dict[str, Any] = {"user_id": draw.choice(["u", "unknown", None])}
    if draw.random() < 0.2:
        given["context"] = {"hour": "noon"}
    if draw.random() < 0.1:
        given["tmax_ms"] = 0.0001
    body = body_of(draw.randrange(ROOM + 2), **given)
    head = f"POST /predict HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return (head.encode() + body)[: -3 if draw.random() < 0.1 else None]


@pytest.mark.parametrize("way", ["parser", "asgi"])
def test_every_request_is_counted_once_and_replaced_arms_are_freed(
    run_app: RunApp, store: str, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clients leave at any time, batches fail, and reloads replace the arm meanwhile."""
    app = run_app(
        try_reloads="off",
        feature_store=store,
        max_queued_rows=ROOM,
        max_candidates=ROOM,
        max_batch_rows=2,
        predict_through=way,
    )
    draw, clients, rounds = random.Random(0), 6, 40
    predictors = weakref.WeakSet([app.app.arms[0].predictor])

    def fail(_: Any) -> None:
        raise RuntimeError("the graph failed")

    async def send_some() -> None:
        async with AsyncExitStack() as stack:
            if draw.random() < 0.2:
                patched = stack.enter_context(monkeypatch.context())
                patched.setattr(app.app.arms[0].predictor.graphs, "run", fail)
            waiting = []
            for _ in range(clients):
                wire = await stack.enter_async_context(Wire(app.app))
                request = draw_request(draw)
                wire.protocol.data_received(request)
                if draw.random() < 0.3 or not request.endswith(b"}"):
                    for _ in range(draw.randrange(3)):
                        await asyncio.sleep(0)
                    wire.protocol.connection_lost(None)
                else:
                    waiting.append(wire)
            if draw.random() < 0.2:
                await app.app.served.reload()
                predictors.add(app.app.arms[0].predictor)
            for wire in waiting:
                assert len(await wire.receive(1)) == 1

    for _ in range(rounds):
        app.runner.run(send_some())
    found = app.metrics()
    assert found['bidlight_reloads_total{outcome="ok"}'] > 1
    requests = {name: value for name, value in found.items() if name.startswith("bidlight_requests_total")}
    assert sum(requests.values()) == clients * rounds
    for outcome in ("ok", "too_late", "invalid_field", "inference_failed", "client_left"):
        assert any(outcome in name for name in requests)
    assert set(predictors) == {app.app.arms[0].predictor}
    assert_is_empty(app)
