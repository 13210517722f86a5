"""The native core and the Python code give the same bytes and the same counts for any body."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from time import perf_counter
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtest.traffic.hostile import FieldNames, hostile_bodies
from service.bundle.native import IS_BUILT
from service.bundle.schema import Bins, Field, Hashing, Kind, Role, Schema, Vocabulary
from service.features.store import pack
from service.http.prediction import Prediction
from service.settings import Settings
from service.wire import Asked
from tests.feature_stores import fill
from tests.running import RunningApp
from tests.tiny_bundle import tiny_rows, tiny_schema, write_tiny_bundle

pytestmark = pytest.mark.skipif(not IS_BUILT, reason="the native core was not built")

KINDS = b"application/json", b"application/msgpack"
MAX_CANDIDATES = 6
MANY = settings(deadline=None, max_examples=300)
ROWS = tiny_rows(20, seed=5)
USERS = {"u1": ROWS[0]["context"], "u2": {"site": "s1", "hour": "bad", "user_id": "ü3"}, "ü3": {}}
ADS = {f"ad-{n}": row["candidate"] for n, row in enumerate(ROWS)} | {"日本": {"price": 0.1, "tags": ["x"]}}


def wide_schema() -> Schema:
    """The tiny schema and what it lacks: every encoding in every kind and role."""
    tiny = tiny_schema()
    ad = tiny.field("ad")
    words = Vocabulary(("é", "日本", "1005", "-7", "a b", "x" * 40, "s1"))
    of_prices = np.array([0, 1, 4, 4, 2, 3, 5], np.int32)
    context = [field for field in tiny.fields if field.role is Role.CONTEXT]
    context += [
        Field("user_id", Kind.CATEGORICAL, Role.CONTEXT, Vocabulary(("u1", "u2", "ü3"))),
        Field("visited", Kind.SEQUENCE, Role.CONTEXT, Hashing(40, seed=2), max_length=2),
    ]
    candidate = [field for field in tiny.fields if field.role is Role.CANDIDATE]
    candidate += [
        Field("tags", Kind.SEQUENCE, Role.CANDIDATE, Hashing(50, seed=9), max_length=2),
        replace(ad, name="shown", kind=Kind.SEQUENCE, max_length=3, same_values_as="ad"),
        Field("price", Kind.NUMERIC, Role.CANDIDATE, Bins((-1.5, 0.0, 0.1, 1e300)), renumbering=of_prices),
        Field("word", Kind.CATEGORICAL, Role.CANDIDATE, words),
    ]
    return Schema((*context, *candidate))


@pytest.fixture(scope="module")
def arms(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    folder = tmp_path_factory.mktemp("bundles")
    tiny = write_tiny_bundle(folder / "tiny")
    wide = write_tiny_bundle(folder / "wide", "wide", schema=wide_schema())
    return (f"tiny={tiny}", f"wide={wide}")


Pair = tuple[RunningApp, RunningApp]


@pytest.fixture(scope="module", params=["sent", "stored"])
def pair(
    request: pytest.FixtureRequest, arms: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pair]:
    """The same service with the native core and without it; users and ads are stored, or only sent."""
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text(f"1 {'5e' * 16}\n", encoding="ascii")
    running = []
    for native in ("on", "off"):
        options: dict[str, Any] = {"native": native, "max_candidates": MAX_CANDIDATES}
        if request.param == "stored":
            options["feedback_keys"] = str(keys)
        if request.param == "stored":
            # Each its own: a process opens a store once.
            url = f"lmdb://{tmp_path_factory.mktemp('store')}"
            for kind, stored in (("users", USERS), ("ads", ADS)):
                fill(url, kind, {name: pack(features) for name, features in stored.items()})
            options |= {"feature_store": url, "feature_timeout_ms": 1000.0}
        running.append(RunningApp(Settings(arms=arms, bid_multiplier=1.5, bid_floor=0.00001, **options)))
    yield running[0], running[1]
    for app in running:
        app.close()


class Outcome(msgspec.Struct):
    """What a client gets, and what is counted."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes
    counted: dict[str, Any]
    is_plain: bool = msgspec.field(default=False)


def outcome_of(app: RunningApp, body: bytes, kind: bytes, arm: bytes = b"wide") -> Outcome:
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


def assert_same(pair: Pair, body: bytes, kind: bytes, arm: bytes = b"wide") -> Outcome:
    native, python = (outcome_of(app, body, kind, arm) for app in pair)
    is_plain, native.is_plain = native.is_plain, False
    assert native == python
    native.is_plain = is_plain
    return native


# Numbers as clients write them. A text "#1e5" stands for the literal: see `in_json`.
LITERALS = [
    *("0", "-0", "7", "1005", "-7", "999999999999999999", "1000000000000000000", "9223372036854775808"),
    *("0.0", "-0.0", "0.1", "0.10", "1e0", "1E+2", "1.5e-3", "123456789.123456789", "0.1e-400", "1e999"),
    *("9007199254740993.0", "1e22", "1e23", "8.5e-23", "2.2250738585072011e-308", "5e-324", "1e-324"),
    *("1.7976931348623157e308", "1.7976931348623159e308", "00", "1.", ".5", "+1", "1e", "-", "0x1", "NaN"),
    "0." + "3" * 40,
    "1" * 400,
    "0.0000000000000000000000000000001e31",
]
texts = st.sampled_from(
    ["s1", "a3", "a5", "", "1005", "é", "日本", "x" * 40, "x" * 300, 'a"b', "a\\", "\n", "\x7f"]
)
texts |= st.text(max_size=10)
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**64), 2**65)
    | st.integers(-20, 20)
    | st.floats()
    | texts
    | st.sampled_from(LITERALS).map(lambda literal: "#" + literal)
)
good = st.sampled_from([None, "", "s1", "a1", "a5", "x", 3, 1005, -7])
numbers = st.sampled_from([None, "", 0, 7, 6.0, 0.1, -1.5, 1e300, -3])
lists = st.lists(good, max_size=5) | st.none()
anything = scalars | st.lists(scalars, max_size=4) | st.lists(st.lists(scalars, max_size=1), max_size=1)
OF_FIELD = {
    **dict.fromkeys(("site", "ad", "campaign", "word", "user_id"), good),
    **dict.fromkeys(("hour", "price"), numbers),
    **dict.fromkeys(("history", "visited", "tags", "shown"), lists),
}
CONTEXT = ("site", "hour", "history", "user_id", "visited", "ad", "other")
CANDIDATE = ("ad", "campaign", "tags", "shown", "price", "word", "site", "other", "ü")


def features(names: tuple[str, ...], values: Any = None) -> st.SearchStrategy[dict[str, Any]]:
    """Some fields with values that they may mostly have."""
    each = {name: OF_FIELD.get(name, anything) if values is None else values for name in names}
    return st.fixed_dictionaries({}, optional=each)


money = st.sampled_from([None, 0, 1, 1.25, 0.002, 1e9, -0.0, 0.1, 3]) | st.floats(0, 1e9)
ids = st.sampled_from([None, "ad-1", "ad-3", "日本", "", "nobody", "x" * 40]) | texts
rows = st.lists(
    st.fixed_dictionaries(
        {},
        optional={"id": ids, "features": features(CANDIDATE), "value_per_click": money, "bid_floor": money},
    ),
    min_size=1,
    max_size=MAX_CANDIDATES + 1,
)


@st.composite
def columns(draw: st.DrawFn) -> dict[str, Any]:
    length = draw(st.integers(1, MAX_CANDIDATES))

    def column(values: Any) -> Any:
        return st.lists(values, min_size=length, max_size=length)

    named = {name: column(OF_FIELD.get(name, anything)) for name in CANDIDATE}
    optional = {
        "id": column(ids) | st.none(),
        "features": st.fixed_dictionaries({}, optional=named),
        "value_per_click": column(money) | st.none(),
        "bid_floor": column(money),
    }
    found: dict[str, Any] = draw(st.fixed_dictionaries({}, optional=optional))
    return found


requests = st.fixed_dictionaries(
    {"candidates": rows | columns()},
    optional={
        "id": ids,
        "user_id": st.sampled_from([None, "u1", "u2", "ü3", "nobody", ""]) | texts,
        "tmax_ms": st.sampled_from([None, 10_000, 3_600_000.0]),
        "tracking": st.booleans(),
        "context": features(CONTEXT),
    },
)
values = anything | st.dictionaries(texts, scalars, max_size=2)
odd_candidate = st.fixed_dictionaries(
    {},
    optional={
        "id": values,
        "features": features(CANDIDATE, values) | values,
        "value_per_click": values,
        "bid_floor": values,
        "other": values,
    },
)
odd_columns = st.fixed_dictionaries(
    {},
    optional={
        "id": st.lists(values, max_size=2) | values,
        "value_per_click": st.lists(values, max_size=2),
        "features": features(CANDIDATE, st.lists(values, max_size=2) | values) | values,
    },
)
odd_requests = st.fixed_dictionaries(
    {"candidates": st.lists(odd_candidate, max_size=3) | odd_columns | values},
    optional={
        "id": values,
        "user_id": values,
        "tmax_ms": values,
        "tracking": values,
        "other": values,
        "context": features(CONTEXT, values) | values,
    },
)


@st.composite
def in_json(draw: st.DrawFn, request: Any) -> bytes:
    """A request as one of the many texts that mean it."""
    style = draw(st.sampled_from([{}, {"separators": (",", ":")}, {"indent": 1}, {"ensure_ascii": False}]))
    text = json.dumps(draw(request), **style)
    text = re.sub(r'"#([-+.\w]*)"', r"\1", text)
    return text.encode("utf-8", "surrogatepass")


def narrowed(value: Any) -> Any:
    """The same without integers that MessagePack cannot hold, and texts that are not UTF-8."""
    match value:
        case dict():
            return {narrowed(key): narrowed(item) for key, item in value.items()}
        case list():
            return [narrowed(item) for item in value]
        case str():
            return value.encode("utf-8", "replace").decode()
        case int() if not -(2**63) <= value < 2**64:
            return str(value)
    return value


def in_msgpack(request: st.SearchStrategy[Any]) -> st.SearchStrategy[bytes]:
    return request.map(lambda value: msgspec.msgpack.encode(narrowed(value)))


@st.composite
def bodies(draw: st.DrawFn, request: st.SearchStrategy[Any]) -> tuple[bytes, bytes]:
    """A body and its Content-Type."""
    kind = draw(st.sampled_from(KINDS))
    return draw(in_json(request) if kind == KINDS[0] else in_msgpack(request)), kind


@st.composite
def mutated(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """A body with a few bytes changed, added or removed."""
    body, kind = draw(bodies(requests))
    changed = bytearray(body)
    for _ in range(draw(st.integers(1, 2))):
        at = draw(st.integers(0, len(changed)))
        match draw(st.sampled_from(["flip", "insert", "delete", "truncate", "repeat"])):
            case "flip" if at < len(changed):
                changed[at] ^= 1 << draw(st.integers(0, 7))
            case "insert":
                changed[at:at] = draw(
                    st.sampled_from([b",", b'"', b"}", b"[", b"0", b"\\", b" "]) | st.binary(max_size=3)
                )
            case "delete":
                del changed[at : at + draw(st.integers(1, 4))]
            case "truncate":
                del changed[at:]
            case "repeat":
                stop = at + draw(st.integers(1, 30))
                changed[at:at] = changed[at:stop]
    return bytes(changed), kind


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


@pytest.mark.parametrize("text", ["\\ud800", "\\udc00x", "\\ud83d\\u0041", "\\u12", "\\u12g4", "\\x", "\\"])
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
