"""Hashes become numbers between 0 and 1, of which a logarithm of a logarithm can be taken."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from service.arms.hashes import uniform_of_bytes


@given(st.one_of(st.binary(min_size=8, max_size=8), st.sampled_from([b"\0" * 8, b"\xff" * 8])))
def test_no_hash_is_0_or_1(digest: bytes) -> None:
    uniform = uniform_of_bytes(digest)
    assert 0.0 < uniform < 1.0
    assert math.isfinite(math.log(-math.log(uniform)))


def test_numbers_follow_the_hash() -> None:
    assert uniform_of_bytes(b"\x40" + b"\0" * 7) == 0.25 + 2.0**-54
