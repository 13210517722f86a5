"""SipHash-2-4 of many messages at once (Aumasson and Bernstein, INDOCRYPT 2012); it knows no token.

The native core makes the hashes where it was built, else numpy. Both make the same.

The hash is a pseudorandom function of a message under a secret key of 128 bits: who does not know the key can
neither guess the 64 bits of a message that they have not seen nor choose messages whose hashes collide.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from service.bundle.native import IS_BUILT, _native

Words = NDArray[np.uint64]

# "somepseudorandomlygeneratedbytes", as the paper begins.
_STARTS = np.array(
    [0x736F6D6570736575, 0x646F72616E646F6D, 0x6C7967656E657261, 0x7465646279746573], np.uint64
)
_FINAL = np.uint64(0xFF)


def siphash24(first: Words, second: Words, messages: NDArray[np.uint8]) -> Words:
    """The hashes [n] of `messages` [n, bytes]; `first` and `second` [n] are the words of their keys.

    A key of 16 bytes is two little-endian words.
    """
    rows, size = messages.shape
    padded = np.zeros((rows, size // 8 * 8 + 8), np.uint8)
    padded[:, :size] = messages
    padded[:, -1] = size & 0xFF
    v: list[Words] = [
        start ^ word for start, word in zip(_STARTS, (first, second, first, second), strict=True)
    ]
    for word in padded.view("<u8").T:
        v[3] ^= word
        _compress(v, rounds=2)
        v[0] ^= word
    v[2] ^= _FINAL
    _compress(v, rounds=4)
    hashes: Words = v[0] ^ v[1] ^ v[2] ^ v[3]
    return hashes


def _compress(v: list[Words], rounds: int) -> None:
    """SipRound, so many times; the names are the paper's."""
    v0, v1, v2, v3 = v
    for _ in range(rounds):
        v0 += v1
        v1 = _rotated(v1, 13) ^ v0
        v0 = _rotated(v0, 32)
        v2 += v3
        v3 = _rotated(v3, 16) ^ v2
        v0 += v3
        v3 = _rotated(v3, 21) ^ v0
        v2 += v1
        v1 = _rotated(v1, 17) ^ v2
        v2 = _rotated(v2, 32)
    v[:] = v0, v1, v2, v3


def _rotated(words: Words, bits: int) -> Words:
    return (words << np.uint64(bits)) | (words >> np.uint64(64 - bits))


def _native_siphash24(first: Words, second: Words, messages: NDArray[np.uint8]) -> Words:
    hashes = np.empty(len(messages), np.uint64)
    _native.siphash24(first, second, np.ascontiguousarray(messages), hashes)
    return hashes


python_siphash24 = siphash24
if IS_BUILT:
    siphash24 = _native_siphash24
