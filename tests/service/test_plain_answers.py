"""The core writes the bytes that the Python code writes, for every float and every bid."""

from __future__ import annotations

import math
import struct
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.bidding import BidPolicy, bids, native_policy
from service.bundle.native import IS_BUILT
from service.reading import decode_request, read_plain
from service.wire import JSON, MSGPACK, Codec, answer_of, asked_of, before_results

pytestmark = pytest.mark.skipif(not IS_BUILT, reason="the native core was not built")

CODECS = [JSON, MSGPACK]
ARM, BUNDLE = 'a"rm', "bündle@1"
POLICIES = [
    BidPolicy(),
    BidPolicy(multiplier=1.1),
    BidPolicy(multiplier=1e6, cap=1e12),
    BidPolicy(cap=0.01, floor=0.002),
    BidPolicy(multiplier=1e-6),
    BidPolicy(win_price=0.003),
    BidPolicy(multiplier=1.1, cap=0.01, floor=0.002, win_price=1e-9),
    BidPolicy(multiplier=1e6, win_price=1e9),
]


def assert_same_answer(
    codec: Codec,
    candidates: Any,
    pctrs: list[float],
    policy: BidPolicy,
    request_id: str | None = None,
    revision: int = 0,
) -> None:
    request = {"id": request_id, "candidates": candidates}
    body = msgspec.json.encode(request) if codec is JSON else msgspec.msgpack.encode(request)
    asked = asked_of(decode_request(body, codec))
    found = np.array(pctrs, np.float64)
    offers = bids(found, asked.values_per_click, asked.bid_floors, policy)
    expected = codec.encode(answer_of(asked, ARM, BUNDLE, found, offers, revision=revision))
    plain = read_plain(body, codec, len(pctrs))
    assert plain is not None
    before, keys = before_results(codec, ARM, BUNDLE, revision)
    answer, count = plain.answer(found, before, native_policy(policy), keys=keys)
    assert answer == expected
    assert count == len(offers) - offers.count(None)


def of_bits(bits: int) -> float:
    number: float = struct.unpack("<d", struct.pack("<Q", bits))[0]
    return number


def edge_floats() -> list[float]:
    """Every power of two and of ten, both neighbours of each, and what else begins a class of floats."""
    powers = [2.0**n for n in range(-1074, 1024)] + [float(f"1e{n}") for n in range(-323, 309)]
    whole = [float(10**n - 1) for n in range(1, 18)] + [float(n) for n in range(2000)]
    found = [0.0, -0.0, 5e-324, 2.2250738585072014e-308, math.inf, -math.inf, math.nan, *powers, *whole]
    found += [math.nextafter(number, way) for number in powers for way in (-math.inf, math.inf)]
    return found + [-number for number in found]


@pytest.mark.parametrize("revision", [1, 127, 128, 65_535])
@pytest.mark.parametrize("codec", CODECS)
def test_the_revision_of_a_live_calibration_is_named_alike(codec: Codec, revision: int) -> None:
    candidates = {"id": ["a", None], "value_per_click": [1.5, None]}
    assert_same_answer(codec, candidates, [0.25, 0.5], BidPolicy(), "r", revision)


@pytest.mark.parametrize("codec", CODECS)
def test_every_class_of_floats_is_written_alike(codec: Codec) -> None:
    found = edge_floats()
    assert_same_answer(codec, {"id": [None] * len(found)}, found, BidPolicy())


@settings(deadline=None, max_examples=300)
@given(
    st.sampled_from(CODECS), st.lists(st.integers(0, 2**64 - 1).map(of_bits) | st.floats(0, 1), min_size=1)
)
def test_any_float_is_written_alike(codec: Codec, pctrs: list[float]) -> None:
    assert_same_answer(codec, [{}] * len(pctrs), pctrs, BidPolicy())


probabilities = st.floats(0, 1) | st.integers(0, 2000).map(lambda halves: halves * 5e-7)
money = st.none() | st.floats(0, 1e9) | st.integers(0, 10**6).map(lambda cents: cents / 100)


@settings(deadline=None, max_examples=400)
@given(
    st.sampled_from(CODECS),
    st.lists(st.tuples(probabilities, money, money | st.just(1e-6)), min_size=1, max_size=40),
    st.sampled_from(POLICIES),
    st.booleans(),
)
def test_any_bid_is_written_alike(
    codec: Codec, offered: list[tuple[float, float | None, float | None]], policy: BidPolicy, as_rows: bool
) -> None:
    pctrs, values, floors = (list(column) for column in zip(*offered, strict=True))
    candidates: Any = {"value_per_click": values, "bid_floor": floors}
    if as_rows:
        pairs = zip(values, floors, strict=True)
        candidates = [{"value_per_click": value, "bid_floor": floor} for value, floor in pairs]
    assert_same_answer(codec, candidates, pctrs, policy)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("value", [0.5, 1.0, 2.5, 1e9])
def test_every_small_number_of_micros_and_every_tie(codec: Codec, value: float) -> None:
    pctrs = [halves * 5e-7 for halves in range(2500)]
    assert_same_answer(codec, {"value_per_click": [value] * 2500}, pctrs, BidPolicy())


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("size", [0, 1, 31, 32, 255, 256, 65_535, 65_536])
def test_ids_of_every_size_are_echoed(codec: Codec, size: int) -> None:
    for text in ("x" * size, "é" * (size // 2)):
        assert_same_answer(codec, [{"id": text}, {"id": None}], [0.5, 0.25], BidPolicy(), text)
        assert_same_answer(codec, {"id": [text, None]}, [0.5, 0.25], BidPolicy(), text)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("rows", [1, 15, 16, 65_535, 65_536])
def test_answers_of_every_size(codec: Codec, rows: int) -> None:
    columns = {"id": ["a"] * rows, "value_per_click": [1.25] * rows}
    assert_same_answer(codec, columns, [0.0123] * rows, BidPolicy())
    assert_same_answer(codec, [{"id": "a", "value_per_click": 3}] * rows, [0.0123] * rows, BidPolicy())
