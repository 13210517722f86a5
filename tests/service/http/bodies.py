"""Bodies of requests for one wide schema, as clients send them, odd ones, and broken ones."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
from hypothesis import strategies as st

from service.bundle.schema import Bins, Field, Hashing, Kind, Role, Schema, Vocabulary
from tests.tiny_bundle import tiny_schema

KINDS = b"application/json", b"application/msgpack"
MAX_CANDIDATES = 6
JSON_STYLES: list[dict[str, Any]] = [{}, {"separators": (",", ":")}, {"indent": 1}, {"ensure_ascii": False}]


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
# Escapes in JSON that mean no character.
NO_CHARACTERS = ["\\ud800", "\\udc00x", "\\ud83d\\u0041", "\\u12", "\\u12g4", "\\x", "\\"]
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
    text = json.dumps(draw(request), **draw(st.sampled_from(JSON_STYLES)))
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
