"""SipHash-2-4 gives the hashes that its authors published."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from service.bundle.native import IS_BUILT
from service.feedback.siphash import python_siphash24, siphash24

KEY = np.frombuffer(bytes(range(16)), "<u8")
# vectors_sip64 of the authors' implementation: of messages 00, 00 01, ... by their length.
PUBLISHED = bytes.fromhex(
    """
    310e0edd47db6f72 fd67dc93c539f874 5a4fa9d909806c0d 2d7efbd796666785 b7877127e09427cf 8da699cd64557618
    cee3fe586e46c9cb 37d1018bf50002ab 6224939a79f5f593 b0e4a90bdf82009e f3b9dd94c5bb5d7a a7ad6b22462fb3f4
    fbe50e86bc8f1e75 903d84c02756ea14 eef27a8e90ca23f7 e545be4961ca29a1 db9bc2577fcc2a3f 9447be2cf5e99a69
    9cd38d96f0b3c14b bd6179a71dc96dbb 98eea21af25cd6be c7673b2eb0cbf2d0 883ea3e395675393 c8ce5ccd8c030ca8
    """
)


@pytest.mark.parametrize("size", range(24))
@pytest.mark.parametrize("hashes", [python_siphash24, siphash24], ids=["python", "served"])
def test_the_published_hashes(hashes: Callable[..., Any], size: int) -> None:
    message = np.arange(size, dtype=np.uint8)[None]
    found = hashes(KEY[:1], KEY[1:], message).astype("<u8").tobytes()
    assert found == PUBLISHED[8 * size : 8 * size + 8]


def test_many_messages_have_the_hashes_of_each_under_its_own_key() -> None:
    draw = np.random.default_rng(1)
    messages = draw.integers(0, 256, (50, 22), np.uint8)
    keys = draw.integers(0, 2**64, (2, 50), np.uint64)
    together = siphash24(keys[0], keys[1], messages)
    for row in range(50):
        one = slice(row, row + 1)
        assert siphash24(keys[0, one], keys[1, one], messages[one])[0] == together[row]


@pytest.mark.skipif(not IS_BUILT, reason="the native core was not built")
@pytest.mark.parametrize("size", [0, 1, 7, 8, 22, 300])
@pytest.mark.parametrize("rows", [0, 1, 9])
def test_the_core_makes_the_same_hashes(rows: int, size: int) -> None:
    draw = np.random.default_rng(rows + size)
    messages = draw.integers(0, 256, (rows, size + 1), np.uint8)[:, :size]  # of which no row follows the last
    keys = draw.integers(0, 2**64, (2, rows), np.uint64)
    assert np.array_equal(siphash24(*keys, messages), python_siphash24(*keys, messages))
