"""Bytes to request and answer to bytes, in both encodings."""

from __future__ import annotations

import json
import math
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import InvalidField, MalformedBody, UnsupportedMediaType
from service.reading import decode_request
from service.wire import (
    JSON,
    MSGPACK,
    Candidate,
    CandidateColumns,
    Codec,
    PredictRequest,
    answer_of,
    asked_of,
    codec_for,
    count_rows,
)

ROWS = {
    "id": "req-1",
    "user_id": "u42",
    "tmax_ms": 50,
    "context": {"C1": "68fd1e64", "I1": 3},
    "candidates": [{"id": "ad-1", "features": {"C19": "a1b2"}, "value_per_click": 1.25, "bid_floor": 0.01}],
}
COLUMNS = {
    "candidates": {"id": ["a", "b"], "features": {"C19": ["x", None]}, "value_per_click": [1, None]},
}


def encoded(value: Any, codec: Codec) -> bytes:
    return msgspec.json.encode(value) if codec is JSON else msgspec.msgpack.encode(value)


@pytest.mark.parametrize("codec", [JSON, MSGPACK])
def test_rows_and_columns_are_read_in_both_encodings(codec: Codec) -> None:
    rows = decode_request(encoded(ROWS, codec), codec)
    assert isinstance(rows.candidates, list)
    assert rows.candidates[0].features == {"C19": "a1b2"}
    assert (rows.id, rows.user_id, rows.tmax_ms, rows.context["I1"]) == ("req-1", "u42", 50.0, 3)
    columns = decode_request(encoded(COLUMNS, codec), codec)
    assert isinstance(columns.candidates, CandidateColumns)
    assert columns.candidates.features == {"C19": ["x", None]}


@pytest.mark.parametrize("codec", [JSON, MSGPACK])
def test_the_answer_has_the_shape_of_the_request(codec: Codec) -> None:
    decode = json.loads if codec is JSON else msgspec.msgpack.decode
    rows = decode_request(encoded(ROWS, codec), codec)
    answer = answer_of(asked_of(rows), "control", "m@1", np.array([0.0123]), [0.015375])
    assert decode(codec.encode(answer)) == {
        "id": "req-1",
        "arm": "control",
        "bundle": "m@1",
        "results": [{"id": "ad-1", "pctr": 0.0123, "bid": 0.015375}],
    }
    columns = decode_request(encoded(COLUMNS, codec), codec)
    answer = answer_of(asked_of(columns), "control", "m@1", np.array([0.1, 0.2]), [0.1, None])
    assert decode(codec.encode(answer))["results"] == {
        "id": ["a", "b"],
        "pctr": [0.1, 0.2],
        "bid": [0.1, None],
    }


@pytest.mark.parametrize(
    ("content_type", "codec"),
    [
        (b"application/json", JSON),
        (b"application/json; charset=utf-8", JSON),
        (b"Application/JSON;charset=UTF-8", JSON),
        (b"application/msgpack", MSGPACK),
        (b"application/x-msgpack", MSGPACK),
        (b"application/vnd.msgpack", MSGPACK),
    ],
)
def test_media_types(content_type: bytes, codec: Codec) -> None:
    assert codec_for(content_type) is codec


@pytest.mark.parametrize("content_type", [None, b"", b"text/plain", b"application/jsonp", b"\xff;", b";"])
def test_other_media_types_are_refused(content_type: bytes | None) -> None:
    with pytest.raises(UnsupportedMediaType, match="application/json or application/msgpack"):
        codec_for(content_type)


def test_what_the_answer_needs_is_read_from_rows_and_columns() -> None:
    rows = PredictRequest([Candidate("a", value_per_click=2.0), Candidate(bid_floor=0.5)], "r")
    columns = PredictRequest(CandidateColumns(["a", None], {}, [2.0, None], [None, 0.5]), "r")
    assert asked_of(rows)[:4] == asked_of(columns)[:4] == ("r", ["a", None], [2.0, None], [None, 0.5])
    assert asked_of(PredictRequest(CandidateColumns(["a", "b"]))) == (None, ["a", "b"], None, None, False)


IDS = st.none() | st.text(max_size=8)
NUMBERS = st.floats(0.0, 1.0) | st.sampled_from([0.0, 5e-324, 1e-7, 0.1, 1.0 - 2**-53, 1.0])


@pytest.mark.parametrize("codec", [JSON, MSGPACK])
@given(rows=st.lists(st.tuples(IDS, NUMBERS, st.none() | NUMBERS), min_size=1, max_size=40), arm=st.text())
def test_an_answer_decodes_to_its_values(
    codec: Codec, rows: list[tuple[str | None, float, float | None]], arm: str
) -> None:
    """A client without a schema gets plain mappings of the same values, bit for bit."""
    ids, pctrs, bids = (list(column) for column in zip(*rows, strict=True))
    results = [{"id": name, "pctr": pctr, "bid": bid} for name, pctr, bid in rows]
    of_columns = {"id": ids, "pctr": pctrs, "bid": bids}
    shapes = ([Candidate(id=name) for name in ids], results), (CandidateColumns(id=ids), of_columns)
    for candidates, expected in shapes:
        request = PredictRequest(candidates, id=ids[0])
        body = codec.encode(answer_of(asked_of(request), arm, "b@1", np.array(pctrs), bids))
        answer = {"id": ids[0], "arm": arm, "bundle": "b@1", "results": expected}
        assert body == encoded(answer, codec)
        assert (json.loads(body) if codec is JSON else msgspec.msgpack.decode(body)) == answer


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"candidates": [{"value_per_click": -1}]}, "$.candidates[0].value_per_click"),
        ({"candidates": [{}, {"value_per_click": "1"}]}, "$.candidates[1].value_per_click"),
        ({"candidates": [{"value_per_click": 1e10}]}, "$.candidates[0].value_per_click"),
        ({"candidates": [{"bid_floor": -0.01}]}, "$.candidates[0].bid_floor"),
        ({"candidates": {"bid_floor": [1, -1]}}, "$.candidates.bid_floor[1]"),
        ({"candidates": [{"id": 7}]}, "$.candidates[0].id"),
        ({"candidates": "all"}, "$.candidates"),
        ({"candidates": [3]}, "$.candidates[0]"),
        ({"candidates": [{"value_per_clik": 1}]}, "$.candidates[0]"),
        ({"contxt": {}}, "$"),
        ({"context": []}, "$.context"),
        ({"tmax_ms": 0}, "$.tmax_ms"),
        ({"tmax_ms": -1}, "$.tmax_ms"),
        ({"user_id": 7}, "$.user_id"),
    ],
)
@pytest.mark.parametrize("codec", [JSON, MSGPACK])
def test_a_bad_value_is_named_by_its_path(change: dict[str, Any], path: str, codec: Codec) -> None:
    with pytest.raises(InvalidField) as caught:
        decode_request(encoded({**ROWS, **change}, codec), codec)
    assert caught.value.path == path


@pytest.mark.parametrize("name", ["value_per_click", "bid_floor", "tmax_ms"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_nan_and_infinity_in_messagepack_are_refused(name: str, value: float) -> None:
    body: dict[str, Any] = {"candidates": [{}]}
    (body if name == "tmax_ms" else body["candidates"][0])[name] = value
    with pytest.raises(InvalidField) as caught:
        decode_request(msgspec.msgpack.encode(body), MSGPACK)
    assert str(caught.value.path).endswith(name)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"NaN",
        b'{"candidates": [{"value_per_click": NaN}]}',
        b'{"candidates": [{}], "context": {"a": "\xff"}}',
        b'{"candidates": [{}], "context": {"a": "\\ud800"}}',
        b"\xef\xbb\xbf{}",
        b'{"candidates": [{}]} trailing',
        b'{"candidates": [{}], "context": {"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}}",
        "{}".encode("utf-16"),
    ],
)
def test_what_is_not_json_is_malformed(body: bytes) -> None:
    with pytest.raises(MalformedBody, match="must be JSON"):
        decode_request(body, JSON)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xc1",
        b"\x81\xa2id\xa1\xff",
        b"\x81\xa7context\x81\xa1a" + b"\x91" * 100_000,
        b"\x81\xaacandidates\xdd",
    ],
)
def test_what_is_not_messagepack_is_malformed(body: bytes) -> None:
    with pytest.raises(MalformedBody, match="must be MessagePack"):
        decode_request(body, MSGPACK)


@pytest.mark.parametrize(
    ("body", "path"),
    [
        (b'{"candidates": [{"value_per_click": 1e999}]}', "$.candidates[0].value_per_click"),
        (b'{"candidates": [{}], "context": {"I1": 1, "I2": 1e999, "I3": 2}}', "$.context.I2"),
        (b'{"candidates": [{}, {"features": {"x": 1, "y": 1e999}}]}', "$.candidates[1].features.y"),
        (b'{"candidates": {"features": {"x": [1], "y": [1, 1e999]}}}', "$.candidates.features.y[1]"),
        (b'{"context": {"I1": [1, 2, 1e999]}, "candidates": [{}]}', "$.context.I1[2]"),
    ],
)
def test_a_number_out_of_range_is_refused_by_its_name(body: bytes, path: str) -> None:
    with pytest.raises(InvalidField, match="out of range") as caught:
        decode_request(body, JSON)
    assert caught.value.path == path


@pytest.mark.parametrize("codec", [JSON, MSGPACK])
def test_a_column_that_is_not_a_list_is_refused_by_its_name(codec: Codec) -> None:
    with pytest.raises(InvalidField, match="Expected `array`") as caught:
        decode_request(encoded({"candidates": {"features": {"x": ["a"], "y": "a"}}}, codec), codec)
    assert caught.value.path == "$.candidates.features.y"


def test_names_in_messagepack_must_be_text() -> None:
    with pytest.raises(InvalidField, match="Expected `str`, got `bytes`") as caught:
        decode_request(msgspec.msgpack.encode({"candidates": [{}], "context": {b"site": "a"}}), MSGPACK)
    assert caught.value.path == "$.context"


def test_a_name_that_looks_like_a_path_is_not_taken_for_one() -> None:
    with pytest.raises(InvalidField, match="unknown field `we - at `") as caught:
        decode_request(b'{"candidates": [{"we - at `$.tmax_ms": 1}]}', JSON)
    assert caught.value.path == "$.candidates[0]"


def test_candidates_are_counted_and_limited() -> None:
    assert count_rows([Candidate(), Candidate()], 2) == 2
    assert count_rows(CandidateColumns(features={"C19": ["x", "y", "z"]}), 3) == 3
    for candidates in ([], CandidateColumns(), CandidateColumns(id=[]), [Candidate()] * 3):
        with pytest.raises(InvalidField, match="1 to 2 ads") as caught:
            count_rows(candidates, 2)
        assert caught.value.path == "$.candidates"


def test_columns_have_one_length() -> None:
    columns = CandidateColumns(id=["a", "b"], features={"C19": ["x", "y"], "C20": ["x"]})
    with pytest.raises(
        InvalidField, match=r"'features.C20' must have the length of 'id', 2 \(got 1\)"
    ) as caught:
        count_rows(columns, 10)
    assert caught.value.path == "$.candidates.features.C20"
