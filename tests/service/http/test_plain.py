"""The native core and the Python code give the same bytes and the same counts for any body."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtest.traffic.hostile import FieldNames, hostile_bodies
from service.bundle.native import IS_BUILT
from service.features.store import pack
from tests.feature_stores import fill
from tests.service.http.bodies import (
    KINDS,
    LITERALS,
    MAX_CANDIDATES,
    NO_CHARACTERS,
    bodies,
    mutated,
    odd_requests,
    requests,
    wide_schema,
)
from tests.service.http.two_ways import Pair, assert_same, outcome_of, start
from tests.tiny_bundle import tiny_rows, write_tiny_bundle

pytestmark = pytest.mark.skipif(not IS_BUILT, reason="the native core was not built")

MANY = settings(deadline=None, max_examples=300)
ROWS = tiny_rows(20, seed=5)
USERS = {"u1": ROWS[0]["context"], "u2": {"site": "s1", "hour": "bad", "user_id": "ü3"}, "ü3": {}}
ADS = {f"ad-{n}": row["candidate"] for n, row in enumerate(ROWS)} | {"日本": {"price": 0.1, "tags": ["x"]}}


@pytest.fixture(scope="module")
def arms(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    folder = tmp_path_factory.mktemp("bundles")
    tiny = write_tiny_bundle(folder / "tiny")
    wide = write_tiny_bundle(folder / "wide", "wide", schema=wide_schema())
    return (f"tiny={tiny}", f"wide={wide}")


@pytest.fixture(scope="module", params=["sent", "stored"])
def pair(
    request: pytest.FixtureRequest, arms: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pair]:
    """The same service with the native core and without it; users and ads are stored, or only sent."""
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text(f"1 {'5e' * 16}\n", encoding="ascii")
    running = []
    for native in ("on", "off"):
        options: dict[str, Any] = {"max_candidates": MAX_CANDIDATES}
        if request.param == "stored":
            options["feedback_keys"] = str(keys)
            # Each its own: a process opens a store once.
            url = f"lmdb://{tmp_path_factory.mktemp('store')}"
            for kind, stored in (("users", USERS), ("ads", ADS)):
                fill(url, kind, {name: pack(features) for name, features in stored.items()})
            options |= {"feature_store": url, "feature_timeout_ms": 1000.0}
        running.append(start(native, arms, **options))
    yield running[0], running[1]
    for app in running:
        app.close()


@MANY
@given(bodies(requests), st.sampled_from([b"wide", b"tiny"]))
def test_ordinary_requests_are_answered_alike(pair: Pair, body: tuple[bytes, bytes], arm: bytes) -> None:
    assert_same(pair, *body, arm)


@MANY
@given(bodies(odd_requests), st.sampled_from([b"wide", b"tiny"]))
def test_odd_requests_are_answered_alike(pair: Pair, body: tuple[bytes, bytes], arm: bytes) -> None:
    assert_same(pair, *body, arm)


@MANY
@given(mutated())
def test_broken_bodies_are_answered_alike(pair: Pair, body: tuple[bytes, bytes]) -> None:
    assert_same(pair, *body)


@pytest.mark.parametrize("body", hostile_bodies(FieldNames("site", "ad"), 30_000), ids=lambda body: body.name)
def test_hostile_bodies_are_answered_alike(pair: Pair, body: Any) -> None:
    assert_same(pair, body.content, body.media_type.encode())


@pytest.mark.parametrize("literal", LITERALS)
@pytest.mark.parametrize("body", ['{"context": {"hour": %s}, "candidates": [{"value_per_click": %s}]}'])
def test_every_number_is_read_alike(pair: Pair, body: str, literal: str) -> None:
    assert_same(pair, (body % (literal, literal)).encode(), KINDS[0])
    assert_same(
        pair,
        b'{"candidates": [{"features": {"price": %b, "word": %b}}]}' % ((literal.encode(),) * 2),
        KINDS[0],
    )
    assert_same(pair, b'{"candidates": [{"features": {"price": %b}}]}' % literal.encode(), KINDS[0])


ROW = {
    "id": "ad-1",
    "features": {"ad": "a1", "campaign": 1005, "tags": ["x", 7, None], "price": 3},
    "bid_floor": 0,
}
PLAIN = {
    "id": "r",
    "user_id": "u1",
    "tmax_ms": 5000,
    "context": {"site": "s1", "hour": 7.5},
    "candidates": [ROW, {}],
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"candidates": [{}]},
        {"candidates": {"id": ["a", None], "features": {"ad": ["a1", 3], "shown": [["a1"], None]}}},
        {"candidates": [{"features": {"typo": {}.get("x"), "ad": "é"}, "value_per_click": 1.25}]},
        {"context": {"typo": True}, "id": None},
    ],
)
def test_what_clients_send_is_plain(pair: Pair, kind: bytes, changes: dict[str, Any]) -> None:
    request = PLAIN | changes
    body = msgspec.json.encode(request) if kind == KINDS[0] else msgspec.msgpack.encode(request)
    assert assert_same(pair, body, kind).is_plain
    assert outcome_of(pair[1], body, kind).is_plain is False


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("candidates", [[ROW, {}], {"id": ["a", None]}])
def test_requests_with_tracking_are_plain(pair: Pair, kind: bytes, candidates: Any) -> None:
    """With keys each result has a token of its own; without, the request is refused."""
    request = PLAIN | {"tracking": True, "candidates": candidates}
    body = msgspec.json.encode(request) if kind == KINDS[0] else msgspec.msgpack.encode(request)
    outcome = assert_same(pair, body, kind)
    if not pair[0].app.predict_service.signers.keys:
        assert outcome.status == 422
        assert b'"path":"$.tracking"' in outcome.body
    else:
        assert (outcome.status, outcome.is_plain) == (200, True)
        assert outcome.body.count(b"(token)") == 2
        request["tracking"] = False
        body = msgspec.json.encode(request) if kind == KINDS[0] else msgspec.msgpack.encode(request)
        assert b"token" not in assert_same(pair, body, kind).body


@pytest.mark.parametrize(
    "body",
    [
        b'{"candidates": [{"id": "a", "id": "b"}]}',
        b'{"candidates": [{"features": {"ad": "a1", "ad": "a2"}}]}',
        b'{"candidates": [{"features": {"ad": 99999999999999999999}}]}',
        b'{"candidates": {"features": {"ad": ["a1"], "typo": []}}}',
    ],
)
def test_what_is_not_plain_is_answered_all_the_same(pair: Pair, body: bytes) -> None:
    outcome = assert_same(pair, body, KINDS[0])
    assert (outcome.status, outcome.is_plain) == (200, False)


@pytest.mark.parametrize("ensure_ascii", [True, False])
def test_texts_with_escapes_are_plain(pair: Pair, ensure_ascii: bool) -> None:
    every = "".join(map(chr, [*range(0x81), 0x7FF, 0x800, 0xD7FF, 0xE000, 0xFFFF, 0x10000, 0x10FFFF]))
    request = {
        "id": every,
        "user_id": "\u00fc3",
        "context": {"site": every, "ü": "s/1", "hour": 7, "history": ["é", "日本", "s1\\"]},
        "candidates": [
            {"id": every, "value_per_click": 1, "features": {"word": "日本", "ad": 'a"b'}},
            {"id": ""},
        ],
    }
    body = json.dumps(request, ensure_ascii=ensure_ascii).replace("/", "\\/").encode()
    outcome = assert_same(pair, body, KINDS[0])
    assert (outcome.status, outcome.is_plain) == (200, True)
    assert json.loads(outcome.body)["id"] == every


@pytest.mark.parametrize("text", NO_CHARACTERS)
def test_escapes_that_mean_no_character_are_refused_alike(pair: Pair, text: str) -> None:
    body = b'{"id": "%b", "candidates": [{"id": "a"}]}' % text.encode()
    assert not assert_same(pair, body, KINDS[0]).is_plain


def test_very_many_unknown_names_are_counted_alike(pair: Pair) -> None:
    for count in (10, 16, 17, 5000):
        names = {f"n{number}": number for number in range(count)}
        body = msgspec.json.encode({"context": names, "candidates": [{"features": names}, {}]})
        assert assert_same(pair, body, KINDS[0]).is_plain is (count <= 16)


def test_fields_in_another_order_are_found(pair: Pair) -> None:
    names = ["ad", "campaign", "price", "word"]
    for shift in range(4):
        order = names[shift:] + names[:shift]
        ads = [{"features": dict.fromkeys(order[: 4 - row], 3)} for row in range(4)]
        assert assert_same(pair, msgspec.json.encode({"candidates": ads}), KINDS[0]).is_plain
