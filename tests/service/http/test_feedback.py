"""No feedback that a client can send makes the service fail, and bids go before it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.settings import Settings
from tests.running import JSON, MSGPACK, RunningApp

FEW = settings(deadline=None, max_examples=100)
BODY = {"candidates": [{}], "tracking": True}


@pytest.fixture(scope="module")
def app(bundles: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApp]:
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text(f"0 {'ab' * 16}\n", encoding="ascii")
    running = RunningApp(
        Settings(
            arms=(f"control={bundles['alpha']}",),
            feedback_keys=str(keys),
            max_body_bytes=20_000,
            max_held_bytes=100_000,
        )
    )
    yield running
    running.close()


def send(app: RunningApp, body: bytes, headers: dict[str, str] = JSON) -> Any:
    return app.runner.run(app.client.post("/feedback", content=body, headers=headers))


def outcomes(app: RunningApp, route: str, outcome: str) -> float:
    named = f'bidlight_feedback_requests_total{{outcome="{outcome}",route="{route}"}}'
    return app.metrics().get(named, 0)


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=50)
anything = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)
events = st.fixed_dictionaries(
    {},
    optional={
        "token": scalars,
        "type": st.sampled_from(["click", "impression", "x", 1]),
        "at": scalars,
        "o": anything,
    },
)
requests = st.fixed_dictionaries({}, optional={"events": st.lists(events | anything, max_size=4) | anything})


@FEW
@given(requests | anything)
def test_any_json(app: RunningApp, value: Any) -> None:
    assert send(app, json.dumps(value).encode()).status_code in (200, 400, 422)


@FEW
@given(st.binary(max_size=200), st.sampled_from([JSON, MSGPACK]))
def test_any_bytes(app: RunningApp, body: bytes, headers: dict[str, str]) -> None:
    assert send(app, body, headers).status_code in (200, 400, 422)


@FEW
@given(st.text(max_size=60))
def test_any_path_of_a_pixel(app: RunningApp, token: str) -> None:
    for path, status in (("/i/", 200), ("/c/", 204)):
        assert app.get(path + quote(token, safe="", errors="surrogatepass")).status_code == status


def test_feedback_is_refused_before_bids_are(app: RunningApp) -> None:
    """While requests wait for their turn events are not counted; afterwards they are, once."""
    (result,) = app.post(BODY).json()["results"]
    body = json.dumps({"events": [{"token": result["token"], "type": "click"}]}).encode()
    admission = app.app.predict_service.admission

    class Waiting:
        """A bid that is not read yet."""

        size, arrived = 10, admission.arrived() + 3600.0

        def done(self) -> bool:
            return True

        def begin(self) -> None: ...

        def give_up(self) -> None: ...

        def refuse(self) -> None: ...

    async def scenario() -> list[int]:
        work = admission.start(1 << 30)
        admission.wait(Waiting())
        refused = await app.client.post("/feedback", content=body, headers=JSON)
        pixel = await app.client.get(f"/i/{result['token']}")
        assert refused.headers["retry-after"] == "1"
        admission.stop(work)
        return [refused.status_code, pixel.status_code]

    before = outcomes(app, "list", "overloaded")
    assert app.runner.run(scenario()) == [429, 429]
    assert outcomes(app, "list", "overloaded") - before == 1
    assert send(app, body).json() == {"counted": 1, "duplicates": 0, "refused": {}}


def test_the_bytes_of_feedback_are_bounded_apart_from_those_of_bids(app: RunningApp) -> None:
    feedback = app.app._feedback
    held = feedback._intake.max_bytes
    assert held == 20_000
    feedback._intake.take(held - 500)
    try:
        assert send(app, b'{"events": []}' + b" " * 600).status_code == 429
        assert app.runner.run(app.client.get("/i/x")).status_code == 429
        assert app.post(BODY).status_code == 200
    finally:
        feedback._intake.give_back(held - 500)
    assert send(app, b'{"events": []}' + b" " * 600).status_code == 200
    assert feedback._intake.held_bytes == 0


def test_a_body_in_parts_is_read(app: RunningApp) -> None:
    (result,) = app.post(BODY).json()["results"]

    async def parts() -> Any:
        yield b'{"events": [{"token": "'
        yield result["token"].encode()
        yield b'", "type": "impression"}]}'

    async def scenario() -> Any:
        return await app.client.post("/feedback", content=parts(), headers=JSON)

    assert app.runner.run(scenario()).json()["counted"] == 1


def test_messagepack_is_answered_in_messagepack(app: RunningApp) -> None:
    answer = send(app, msgspec.msgpack.encode({"events": [{"token": "x", "type": "click"}]}), MSGPACK)
    assert answer.headers["content-type"] == "application/msgpack"
    assert msgspec.msgpack.decode(answer.content) == {
        "counted": 0,
        "duplicates": 0,
        "refused": {"malformed": 1},
    }
