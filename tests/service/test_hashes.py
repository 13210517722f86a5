"""Hashes become numbers between 0 and 1, of which a logarithm of a logarithm can be taken."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.hashes import KeyHash, uniform_of_bytes


@given(st.one_of(st.binary(min_size=8, max_size=8), st.sampled_from([b"\0" * 8, b"\xff" * 8])))
def test_no_hash_is_0_or_1(digest: bytes) -> None:
    uniform = uniform_of_bytes(digest)
    assert 0.0 < uniform < 1.0
    assert math.isfinite(math.log(-math.log(uniform)))


def test_numbers_follow_the_hash() -> None:
    assert uniform_of_bytes(b"\x40" + b"\0" * 7) == 0.25 + 2.0**-54


@pytest.mark.parametrize(
    ("salt", "name", "person", "key", "expected"),
    [
        ("", "control", b"", "u1", 0.5168493540619485),
        ("spring", "candidate", b"", "Åsa", 0.7804644457748879),
        ("s", "candidate", b"shadow", "u1", 0.018424742615270773),
    ],
)
def test_hashes_are_those_of_every_release(
    salt: str, name: str, person: bytes, key: str, expected: float
) -> None:
    """Else users would change their arms while a new release is rolled out."""
    assert KeyHash(salt, name, person).uniform(key) == expected


# Up to three blocks of BLAKE2b, which have 128 bytes; lone surrogates too.
TEXTS = st.text(max_size=12) | st.integers(0, 400).map(lambda size: "k" * size) | st.just("\ud800a")


@given(TEXTS, TEXTS, st.binary(max_size=16), TEXTS)
def test_the_core_hashes_as_hashlib_does(salt: str, name: str, person: bytes, key: str) -> None:
    hashes = KeyHash(salt, name, person)
    assert hashes.uniform(key) == hashes.python_uniform(key)
