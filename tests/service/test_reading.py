"""Whatever a body holds, reading it takes time in proportion to its bytes, and builds what the arms know."""

from __future__ import annotations

import time
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.traffic.hostile import FieldNames, HostileBody, equal_hashes, hostile_bodies, ordinary_body
from service import reading
from service.bundle.lookups import NumericLookup
from service.bundle.native import IS_BUILT
from service.bundle.schema import Bins, Field, Kind, Role
from service.errors import ServiceError
from service.reading import ALL_FIELDS, KnownFields, decode_request, read_plain
from service.wire import JSON, MSGPACK, Candidate, CandidateColumns, Codec, count_rows

CODECS = [JSON, MSGPACK]
KNOWN = KnownFields(frozenset({"site", "hour"}), frozenset({"ad", "campaign"}))
NAMES = FieldNames("site", "ad")
BYTES = 250_000
# What a body may cost, beside an ordinary one of its length. A quadratic way costs hundreds of times as much.
TIMES_ORDINARY, SECONDS_OF_NOISE = 15, 0.05


def encoded(value: Any, codec: Codec) -> bytes:
    return msgspec.json.encode(value) if codec is JSON else msgspec.msgpack.encode(value)


def seconds_to_read(body: HostileBody, codec: Codec) -> float:
    """The CPU time of reading it or refusing it, the better of two."""
    found = []
    for _ in range(2):
        started = time.process_time()
        if IS_BUILT:
            read_plain(body.content, codec, 1000)
        try:
            request = decode_request(body.content, codec, KNOWN, 1000)
            count_rows(request.candidates, 1000, KNOWN.candidate)
        except ServiceError as error:
            assert error.status in (400, 422)  # noqa: PT017
        found.append(time.process_time() - started)
    return min(found)


@pytest.mark.parametrize("body", hostile_bodies(NAMES, BYTES), ids=lambda body: body.name)
def test_no_body_takes_longer_than_its_bytes_are_worth(body: HostileBody) -> None:
    codec = JSON if body.media_type == JSON.media_type.decode() else MSGPACK
    ordinary = seconds_to_read(ordinary_body(NAMES, BYTES, body.media_type), codec)
    assert BYTES / 3 < len(body.content) < BYTES * 1.1 or "integers of equal hashes" in body.name
    assert seconds_to_read(body, codec) < TIMES_ORDINARY * ordinary + SECONDS_OF_NOISE


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("value", [{}, {"deep": [1]}, [[1]], [{"a": 1}], [1.5], {"a": {"b": {}}}])
def test_what_is_no_scalar_and_no_list_of_them_is_refused_under_a_known_name(
    codec: Codec, value: object
) -> None:
    for body, path in (
        ({"context": {"site": value}, "candidates": [{}]}, "$.context.site"),
        ({"candidates": [{}, {"features": {"ad": value}}]}, "$.candidates[1].features.ad"),
        ({"candidates": {"features": {"ad": ["a", value]}}}, "$.candidates.features.ad[1]"),
    ):
        with pytest.raises(ServiceError) as caught:
            decode_request(encoded(body, codec), codec, KNOWN)
        assert caught.value.status == 422
        assert str(caught.value.path).startswith(path)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("value", [{"deep": [1, {}]}, [[[]]], [1.5], {"a": {"b": {}}}])
def test_under_an_unknown_name_it_is_skipped_and_the_rest_is_read(codec: Codec, value: object) -> None:
    of_rows = {
        "id": "r",
        "context": {"typo": value, "site": "s1", "hour": 3},
        "candidates": [{"id": "a", "features": {"debug": value, "ad": "a1"}, "value_per_click": 2}, {}],
    }
    request = decode_request(encoded(of_rows, codec), codec, KNOWN)
    assert request.context == {"typo": None, "site": "s1", "hour": 3}
    assert request.candidates == [Candidate("a", {"debug": None, "ad": "a1"}, 2.0), Candidate()]
    features = {"debug": [value], "ad": ["a1", "a2"]}
    request = decode_request(encoded({"candidates": {"features": features}}, codec), codec, KNOWN)
    assert isinstance(request.candidates, CandidateColumns)
    assert list(request.candidates.features) == ["debug", "ad"]
    assert count_rows(request.candidates, 10, KNOWN.candidate) == 2


@pytest.mark.parametrize("codec", CODECS)
def test_columns_that_no_arm_knows_still_tell_how_many_ads_there_are(codec: Codec) -> None:
    for value in ("x", {"deep": 1}):
        body = encoded({"candidates": {"features": {"typo": [value] * 3}}}, codec)
        assert count_rows(decode_request(body, codec, KNOWN).candidates, 10, KNOWN.candidate) == 3


@pytest.mark.parametrize(
    "value", [b"1e999", b"[1, -1e999]", b'{"a": 1e999}', b"9" * 5000, b'"\\ud800"', b"[" * 500 + b"]" * 500]
)
def test_numbers_and_text_under_an_unknown_name_are_not_read(value: bytes) -> None:
    try:
        request = decode_request(b'{"context": {"typo": %b}, "candidates": [{}]}' % value, JSON, KNOWN)
    except ServiceError as error:
        assert error.status == 400  # noqa: PT017
    else:
        assert set(request.context) == {"typo"}


scalars = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(max_size=5)
values = scalars | st.floats(allow_nan=False, allow_infinity=False) | st.lists(scalars, max_size=3)
features = st.dictionaries(st.sampled_from(["site", "hour", "ad", "campaign", "ü"]), values, max_size=4)
money = st.none() | st.floats(0.0, 1e9)
of_candidates = st.lists(
    st.fixed_dictionaries(
        {}, optional={"id": st.text(max_size=3), "features": features, "value_per_click": money}
    ),
    max_size=4,
) | st.fixed_dictionaries(
    {},
    optional={
        "id": st.lists(st.none() | st.text(max_size=3), max_size=3),
        "features": st.dictionaries(st.sampled_from(["ad", "x"]), st.lists(values, max_size=3), max_size=2),
        "bid_floor": st.lists(money, max_size=3),
    },
)
requests = st.fixed_dictionaries(
    {"candidates": of_candidates},
    optional={"id": st.text(max_size=3), "tmax_ms": st.floats(1.0, 100.0), "context": features},
)


@pytest.mark.parametrize("codec", CODECS)
@given(requests)
def test_reading_with_care_gives_the_same_request(codec: Codec, request: dict[str, Any]) -> None:
    body = encoded(request, codec)
    assert reading._read_with_care(body, codec, ALL_FIELDS, 1000) == codec.decode(body)


def test_the_outlines_take_what_the_interface_takes() -> None:
    """A field of the interface that an outline lacks would be refused in some requests and not in others."""
    pairs = (
        (reading._RequestOutline, reading.PredictRequest),
        (reading._CandidateOutline, Candidate),
        (reading._ColumnsOutline, CandidateColumns),
    )
    for outline, struct in pairs:
        assert outline.__struct_fields__ == struct.__struct_fields__


def test_large_integers_are_not_cached_for_others_to_be_compared_with() -> None:
    field = Field("price", Kind.NUMERIC, Role.CANDIDATE, Bins((0.0, 10.0)))
    lookup = NumericLookup(field, Bins((0.0, 10.0)))
    alike = [number for number in equal_hashes(300) if number > 1]
    assert len({hash(number) for number in alike}) == 1
    before = len(lookup.ids)
    assert len(set(map(lookup.one, alike))) == 1
    assert len(lookup.ids) == before
    assert lookup.one(7) == lookup.one(7.0)
    assert len(lookup.ids) == before + 1


def test_a_dense_body_is_told_from_an_ordinary_one() -> None:
    for size in (70_000, 1_000_000):
        assert not reading._is_dense(ordinary_body(NAMES, size).content)
    uuids = b",".join(b'"e-3%08d-9e-7-4e-3f-8"' % number for number in range(40))
    assert not reading._is_dense(b'{"candidates": [{"id": %b}]}' % (b" " * 70_000 + uuids))
    assert reading._is_dense(b"[" + b"{}," * 30_000 + b"{}]")
    assert reading._is_dense(b"[" + b"2.225E-308," * 9000 + b"1]")
