"""No bytes and no JSON that a client can send make the service fail."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.settings import Settings
from tests.running import JSON, MSGPACK, RunningApp

DELIBERATE = {200, 400, 404, 413, 415, 422, 429, 503}
FEW = settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])

FIELDS = ("site", "hour", "history", "ad", "campaign", "value_per_click", "bid_floor")
names = st.sampled_from([*FIELDS, "id", "user_id", "tmax_ms", "context", "candidates", "features", "other"])
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(10**700), 10**700)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["s1", "a1", "", 0, -0.0, 1e308, 5e-324, 2**63, -(2**63), 2**64])
)
anything = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(names | st.text(max_size=4), inner, max_size=5)
    ),
    max_leaves=20,
)
features = st.dictionaries(st.sampled_from(FIELDS), anything, max_size=5)
candidate = st.fixed_dictionaries(
    {},
    optional={"id": anything, "features": features, "value_per_click": scalars, "bid_floor": scalars},
)
columns = st.fixed_dictionaries(
    {},
    optional={
        "id": st.lists(anything, max_size=3),
        "features": st.dictionaries(st.sampled_from(FIELDS), st.lists(anything, max_size=3) | anything),
        "value_per_click": st.lists(scalars, max_size=3),
        "bid_floor": st.lists(scalars, max_size=3),
    },
)
requests = st.fixed_dictionaries(
    {"candidates": st.lists(candidate, max_size=4) | columns | anything},
    optional={"id": anything, "user_id": anything, "tmax_ms": anything, "context": features | anything},
)


@pytest.fixture(scope="module")
def app(bundles: dict[str, Path]) -> Iterator[RunningApp]:
    running = RunningApp(Settings(arms=(f"control={bundles['alpha']}",), max_body_bytes=20_000))
    yield running
    running.close()


def packed(value: Any) -> bytes:
    """MessagePack, with integers of more than 64 bits as text, which it cannot hold."""
    return msgspec.msgpack.encode(_narrowed(value))


def _narrowed(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _narrowed(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_narrowed(item) for item in value]
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        return str(value)
    return value


def assert_deliberate(app: RunningApp, body: bytes, headers: dict[str, str]) -> None:
    answer = app.post(body, headers)
    assert answer.status_code in DELIBERATE
    if answer.status_code != 200:
        error = answer.json()["error"]
        assert set(error) == {"code", "message", "path"}
        assert error["code"] not in ("internal_error", "inference_failed")


@given(st.binary(max_size=300), st.sampled_from([JSON, MSGPACK]))
@FEW
def test_any_bytes(app: RunningApp, body: bytes, headers: dict[str, str]) -> None:
    assert_deliberate(app, body, headers)


@given(anything)
@FEW
def test_any_json(app: RunningApp, value: Any) -> None:
    assert_deliberate(app, json.dumps(value).encode("utf-8", "surrogatepass"), JSON)
    assert_deliberate(app, json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass"), JSON)


@given(requests)
@FEW
def test_any_request(app: RunningApp, value: Any) -> None:
    assert_deliberate(app, json.dumps(value).encode(), JSON)
    assert_deliberate(app, packed(value), MSGPACK)


@given(requests, st.data())
@FEW
def test_a_damaged_request(app: RunningApp, value: Any, data: st.DataObject) -> None:
    headers = data.draw(st.sampled_from([JSON, MSGPACK]))
    body = bytearray(json.dumps(value).encode() if headers is JSON else packed(value))
    for _ in range(data.draw(st.integers(1, 3))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    assert_deliberate(app, bytes(body), headers)


header_text = st.text(
    st.characters(min_codepoint=33, max_codepoint=255, exclude_characters="\x7f"), max_size=30
)


@given(
    st.dictionaries(
        st.sampled_from(["x-arm", "x-split-key", "content-type", "content-encoding"]), header_text
    )
)
@FEW
def test_any_headers(app: RunningApp, headers: dict[str, str]) -> None:
    encoded = {name: value.encode("latin-1") for name, value in headers.items()}
    answer = app.runner.run(
        app.client.post("/predict", content=b'{"candidates": [{}]}', headers={**JSON, **encoded})  # type: ignore[dict-item]
    )
    assert answer.status_code in DELIBERATE


@pytest.mark.parametrize(
    "body",
    [
        b'{"candidates": [{"features": {"ad": 1' + b"0" * 5000 + b"}}]}",
        b'{"candidates": [{}], "context": {"hour": 1' + b"0" * 4000 + b"}}",
        b'{"candidates": [{}], "context": {"history": ' + b"[" * 900 + b"]" * 900 + b"}}",
        b'{"candidates": [{}], "other": ' + b'{"a":' * 9000 + b"1" + b"}" * 9000 + b"}",
        b'{"candidates": [' + b"{}," * 6000 + b"{}]}",
    ],
)
def test_extremes(app: RunningApp, body: bytes) -> None:
    assert_deliberate(app, body, JSON)


def test_names_cannot_explode_the_labels(app: RunningApp) -> None:
    for n in range(60):
        app.post({"context": {f"junk-{n}-{k}": 1 for k in range(50)}, "candidates": [{}]})
    labels = [name for name in app.metrics() if name.startswith("bidlight_unknown_names_total")]
    assert 1 < len(labels) <= 21
