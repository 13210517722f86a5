"""The core's ids are the encoder's, for any vocabulary, hashing and bins; its tables are small and shared."""

from __future__ import annotations

import math
import os
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.bundle.encoder import Encoder
from service.bundle.native import IS_BUILT, _native
from service.bundle.schema import Bins, Field, Hashing, Kind, Role, Schema, Vocabulary
from service.reading import read_plain
from service.wire import MSGPACK

pytestmark = pytest.mark.skipif(not IS_BUILT, reason="the native core was not built")

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
VALUES = 20_000
# What a value may take, where values are short.
BYTES_A_VALUE = 48


def assert_same_ids(field: Field, values: Sequence[Any]) -> None:
    """That the core gives a candidate field's values the ids of the encoder, as rows and as columns."""
    encoder = Encoder(Schema((field,)))
    expected = encoder.encode_candidate_columns({field.name: list(values)}, len(values))
    for candidates in (
        [{"features": {field.name: value}} for value in values],
        {"features": {field.name: list(values)}},
    ):
        request = read_plain(msgspec.msgpack.encode({"candidates": candidates}), MSGPACK, len(values))
        assert request is not None
        assert encoder.native is not None
        found = np.full((len(values), encoder.candidate_width), -1, np.int32)
        assert request.encode(encoder.native, None, np.empty(0, np.int32), found) == (0, [])
        np.testing.assert_array_equal(found, expected)


def shuffled_ids(size: int) -> np.ndarray[Any, np.dtype[np.int32]]:
    """A renumbering of `size` values: each has some id that the encoding has."""
    draw = np.random.default_rng(size)
    return np.array([0, 1, *draw.integers(2, size + 2, size)], np.int32)


@settings(deadline=None)
@given(
    st.lists(texts, unique=True, max_size=40),
    st.lists(texts | st.integers(-100, 100), max_size=20),
    st.booleans(),
)
def test_texts_of_a_vocabulary_and_others(
    vocabulary: list[str], others: list[Any], is_renumbered: bool
) -> None:
    renumbering = shuffled_ids(len(vocabulary)) if is_renumbered else None
    field = Field(
        "f", Kind.CATEGORICAL, Role.CANDIDATE, Vocabulary(tuple(vocabulary)), renumbering=renumbering
    )
    assert_same_ids(field, [*vocabulary, *others, None, ""])


def test_every_value_of_a_large_vocabulary_has_its_id() -> None:
    draw = random.Random(1)
    values = tuple({f"{draw.randrange(10**9):x}" for _ in range(VALUES)})
    field = Field("f", Kind.CATEGORICAL, Role.CANDIDATE, Vocabulary(values))
    assert_same_ids(field, [*values, *(value + "0" for value in values[:1000])])


@pytest.mark.parametrize("count", [1, 1000, VALUES, VALUES * 4 // 3])
def test_a_vocabulary_takes_few_bytes_a_value(count: int) -> None:
    packed = _native.Vocabulary.pack(tuple(f"{number:08x}" for number in range(count)), None, 1)
    assert packed.nbytes <= BYTES_A_VALUE * count + 100


@settings(deadline=None)
@given(
    st.integers(1, 2**31 - 3), st.integers(0, 2**32 - 1), st.lists(texts | st.integers(-(2**63), 2**63 - 1))
)
def test_hashed_values(buckets: int, seed: int, values: list[Any]) -> None:
    field = Field("f", Kind.CATEGORICAL, Role.CANDIDATE, Hashing(buckets, seed))
    assert_same_ids(field, [*values, None, ""])


@settings(deadline=None)
@given(
    st.sets(st.floats(allow_nan=False, allow_infinity=False), max_size=20),
    st.lists(st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**63), 2**63 - 1)),
)
def test_numbers_at_and_beside_every_edge(edges: set[float], numbers: list[Any]) -> None:
    ordered = tuple(sorted(edges))
    beside = [math.nextafter(edge, way) for edge in ordered for way in (-math.inf, math.inf)]
    beside = [number for number in beside if math.isfinite(number)]
    field = Field("f", Kind.NUMERIC, Role.CANDIDATE, Bins(ordered))
    assert_same_ids(field, [*ordered, *beside, *numbers, 0.0, -0.0, None, ""])


@settings(deadline=None)
@given(st.lists(st.lists(texts | st.integers(-9, 9) | st.none(), max_size=6) | st.none(), min_size=1))
def test_sequences_keep_their_last_elements(values: list[Any]) -> None:
    field = Field("f", Kind.SEQUENCE, Role.CANDIDATE, Vocabulary(("1", "2", "a")), max_length=3)
    assert_same_ids(field, [*values, "", []])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of a fork beside threads
def test_a_lookup_writes_to_no_page_that_a_fork_shares() -> None:
    """A worker that was forked encodes every value, and its own memory grows by less than the table."""
    values = tuple(f"{number:08d}" for number in range(300_000))
    encoder = Encoder(Schema((Field("f", Kind.CATEGORICAL, Role.CANDIDATE, Vocabulary(values)),)))
    native = encoder.native
    assert native is not None
    body = msgspec.msgpack.encode({"candidates": {"features": {"f": values}}})
    request = read_plain(body, MSGPACK, len(values))
    assert request is not None
    found = np.zeros((len(values), 1), np.int32)
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        before = _private_bytes()
        is_encoded = request.encode(native, None, np.empty(0, np.int32), found) is not None
        os.write(writing, f"{int(is_encoded)} {_private_bytes() - before}".encode())
        os._exit(0)
    os.waitpid(child, 0)
    is_encoded, grown = os.read(reading, 100).split()
    assert is_encoded == b"1"
    # The ids are its own; the table is not.
    assert int(grown) < found.nbytes + 2_000_000 < 20 * len(values)


def _private_bytes() -> int:
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Private_Dirty"))
