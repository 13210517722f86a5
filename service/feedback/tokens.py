"""Tokens: what an answer says of a candidate, to be sent back when its ad is shown or clicked.

A token is 30 bytes, as 40 characters of base64url (RFC 4648) that need no escape in a URL. Numbers are
little-endian:

    0       whether its request was explored (highest bit), version (3 bits), number of the key (4 bits)
    1-4     source: of which arm, bundle and variant it is
    5-9     when it was made, milliseconds since 2020
    10-13   log-odds of the bundle's own pCTR, float32
    14-15   revision of the live calibration that was applied; 0: none
    16-21   number of the candidate
    22-29   SipHash-2-4 of bytes 0-21

Nothing in it is secret, and nobody without the key can make one or change one. Whoever has a token can send
it back: it says that an answer held it, not that an ad was shown. This module knows no HTTP and no event.
"""

from __future__ import annotations

import math
import secrets
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import IntEnum
from hashlib import blake2b
from typing import TYPE_CHECKING

import msgspec
import numpy as np
from numpy.typing import NDArray

from service.bundle.native import IS_BUILT, _native
from service.feedback.keys import KEYS, Key
from service.feedback.siphash import siphash24

if TYPE_CHECKING:
    from service.bundle._native import BidPolicy, PlainRequest

VERSION = 1
_VERSIONS, _EXPLORED = 7, 8  # of the high 4 bits of the first byte
TOKEN_BYTES, SIGNED_BYTES, TOKEN_CHARACTERS = 30, 22, 40
EPOCH_MS = 1_577_836_800_000  # 2020-01-01 UTC
_MAX_MADE = (1 << 40) - 1  # in 2054
_NUMBERS = 1 << 48
# The pCTRs whose log-odds are told apart. A calibrator clamps further in.
_LEAST, _MOST = 2.0**-126, 1.0 - 2.0**-53
# The clocks of machines may differ by so much.
SKEW_MS = 60_000
_ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
_NO_DIGIT = 64
_DIGITS = np.full(256, _NO_DIGIT, np.uint8)
_DIGITS[list(_ALPHABET)] = np.arange(64)
_MALFORMED = "!" * TOKEN_CHARACTERS


class Reason(IntEnum):
    """Why a token is refused, or OK."""

    OK = 0
    MALFORMED = 1
    """It is not 40 characters of base64url, or of another version."""
    UNKNOWN_KEY = 2
    """No key has the number that it names."""
    FORGED = 3
    """Its hash is not that of the key: it was altered, or made by somebody else."""
    UNKNOWN_BUNDLE = 4
    """No bundle that is or was served here has made it."""
    EXPIRED = 5
    """It is too old."""
    FUTURE = 6
    """It is of a later time than now."""

    @property
    def label(self) -> str:
        """What answers and metrics call it."""
        return self.name.lower()


@dataclass(frozen=True)
class Source:
    """What made a token: an arm, the bundle that it served, and the variant of its graph."""

    arm: str
    bundle: str
    variant: str

    @property
    def number(self) -> int:
        """What a token has of it, 32 bits. Two of a million sources could share one."""
        # No name has a zero byte.
        named = f"{self.arm}\0{self.bundle}\0{self.variant}".encode("utf-8", "surrogatepass")
        return int.from_bytes(blake2b(named).digest()[:4], "little")

    def pack(self) -> bytes:
        """It as bytes, for other processes and machines."""
        return _pack((self.arm, self.bundle, self.variant))

    @classmethod
    def unpack(cls, packed: bytes) -> Source:
        """The inverse of `pack`. Raises DecodeError or UnicodeDecodeError for other bytes."""
        return cls(*_unpack(packed))


_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(tuple[str, str, str]).decode


class Numbers:
    """The numbers of candidates: a process counts on from a start that chance decides."""

    def __init__(self) -> None:
        self._next = secrets.randbelow(_NUMBERS)

    def take(self, count: int) -> int:
        """The first of `count` numbers, which follow each other, 0 after the last of 48 bits."""
        first = self._next
        self._next = (first + count) % _NUMBERS
        return first


class TokenSigner:
    """Makes the tokens of one source: by numpy, or within the answers of the native core, the same bytes."""

    def __init__(
        self, key: Key, source: Source, numbers: Numbers, revision: int = 0, *, is_explored: bool = False
    ) -> None:
        self._numbers = numbers
        self._key = key
        self._head = (_EXPLORED * is_explored | VERSION) << 4 | key.number
        self._of, self._source = source, source.number
        self._revision = revision
        self._revised = self
        self._is_explored, self._explored = is_explored, self if is_explored else None
        self._native = (
            _native.TokenSigner(self._head, self._source, revision, key.secret) if IS_BUILT else None
        )

    def of_revision(self, revision: int) -> TokenSigner:
        """The signer of what is corrected by this revision."""
        if revision == self._revision:
            return self
        if self._revised._revision != revision:
            self._revised = TokenSigner(
                self._key, self._of, self._numbers, revision, is_explored=self._is_explored
            )
        return self._revised

    @property
    def explored(self) -> TokenSigner:
        """The signer of requests that are explored."""
        if self._explored is None:
            self._explored = TokenSigner(self._key, self._of, self._numbers, self._revision, is_explored=True)
        return self._explored

    def tokens(self, pctrs: NDArray[np.float64]) -> list[str]:
        """A token for each candidate; `pctrs` [n] are the bundle's own."""
        return self.tokens_at(pctrs, now_ms(), self._numbers.take(len(pctrs)))

    def answer(
        self,
        request: PlainRequest,
        pctrs: NDArray[np.float64],
        own: NDArray[np.float64],
        arm: bytes,
        policy: BidPolicy,
        keys: int,
    ) -> tuple[bytes, int]:
        """The answer to a plain request with tokens, as `PlainRequest.answer` gives it without.

        `own` [n] are the bundle's pCTRs.
        """
        assert self._native is not None
        first = self._numbers.take(len(pctrs))
        # The core reads an array that comes twice once.
        other = None if own is pctrs else own
        return request.answer(pctrs, arm, policy, self._native, _since_epoch(now_ms()), first, other, keys)

    def tokens_at(self, pctrs: NDArray[np.float64], made_ms: int, first: int) -> list[str]:
        """The same as of a Unix time in milliseconds, with numbers from `first` on."""
        rows = len(pctrs)
        found = np.empty((rows, TOKEN_BYTES), np.uint8)
        found[:, 0] = self._head
        found[:, 1:5] = _bytes_of(self._source, 4)
        found[:, 5:10] = _bytes_of(_since_epoch(made_ms), 5)
        found[:, 10:14] = log_odds(pctrs).view(np.uint8).reshape(rows, 4)
        found[:, 14:16] = _bytes_of(self._revision, 2)
        numbers = (np.arange(rows, dtype=np.uint64) + np.uint64(first)) % np.uint64(_NUMBERS)
        found[:, 16:22] = numbers.astype("<u8").view(np.uint8).reshape(rows, 8)[:, :6]
        one, other = (np.full(rows, word) for word in np.frombuffer(self._key.secret, "<u8"))
        hashes = siphash24(one, other, found[:, :SIGNED_BYTES])
        found[:, SIGNED_BYTES:] = hashes.astype("<u8").view(np.uint8).reshape(rows, 8)
        text = urlsafe_b64encode(found.tobytes()).decode()
        return [text[at : at + TOKEN_CHARACTERS] for at in range(0, len(text), TOKEN_CHARACTERS)]


@dataclass(frozen=True)
class ReadTokens:
    """Tokens that were read [n]. Of those that are refused only the reason means something."""

    reasons: NDArray[np.uint8]
    sources: NDArray[np.uint32]
    made_ms: NDArray[np.int64]
    """Unix times."""
    log_odds: NDArray[np.float32]
    revisions: NDArray[np.uint16]
    is_explored: NDArray[np.bool_]
    hashes: NDArray[np.uint64]
    """One of its own for each token."""

    @property
    def pctrs(self) -> NDArray[np.float64]:
        """What the bundle said [n]."""
        odds = np.exp(np.clip(self.log_odds.astype(np.float64), -700.0, 700.0))
        pctrs: NDArray[np.float64] = odds / (1.0 + odds)
        return pctrs


class TokenReader:
    """Verifies tokens under any of some keys."""

    def __init__(self, keys: Sequence[Key]) -> None:
        self._has_key = np.zeros(KEYS, bool)
        self._keys = np.zeros((2, KEYS), np.uint64)
        for key in keys:
            self._has_key[key.number] = True
            self._keys[:, key.number] = np.frombuffer(key.secret, "<u8")

    def read(self, tokens: Sequence[str], sources: Collection[int], now: int, max_age_ms: int) -> ReadTokens:
        """Read `tokens` [n] of `sources`, at a Unix time in milliseconds.

        The time it takes depends on neither the keys nor what is wrong with a token.
        """
        rows, is_text = _bytes_of_tokens(tokens)
        found = _of_bytes(rows)
        hashes, made_ms = found.hashes, found.made_ms
        key_numbers = rows[:, 0] & 15
        expected = siphash24(self._keys[0][key_numbers], self._keys[1][key_numbers], rows[:, :SIGNED_BYTES])
        # Words are compared whole: how many of their bits are right changes nothing.
        is_signed = (hashes ^ expected) == 0
        known = np.fromiter(sources, np.uint32, len(sources))
        checks = (
            (Reason.FUTURE, made_ms > now + SKEW_MS),
            (Reason.EXPIRED, made_ms < now - max_age_ms),
            (Reason.UNKNOWN_BUNDLE, ~(found.sources[:, None] == known).any(axis=1)),
            (Reason.FORGED, ~is_signed),
            (Reason.UNKNOWN_KEY, ~self._has_key[key_numbers]),
            (Reason.MALFORMED, ~is_text | ~_is_known_version(rows)),
        )
        for reason, is_it in checks:  # the last one that holds wins
            found.reasons[is_it] = reason
        return found


def read_unverified(tokens: Sequence[str]) -> ReadTokens:
    """What `tokens` [n] say, MALFORMED or else OK: of those that were verified before, or made here."""
    rows, is_text = _bytes_of_tokens(tokens)
    found = _of_bytes(rows)
    found.reasons[~is_text | ~_is_known_version(rows)] = Reason.MALFORMED
    return found


def _is_known_version(rows: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Whether tokens [n, TOKEN_BYTES] are of this version, explored or not [n]."""
    is_known: NDArray[np.bool_] = rows[:, 0] >> 4 & _VERSIONS == VERSION
    return is_known


def _of_bytes(rows: NDArray[np.uint8]) -> ReadTokens:
    """What tokens [n, TOKEN_BYTES] say, all of them OK."""
    return ReadTokens(
        np.zeros(len(rows), np.uint8),
        _words_of(rows, 1, 5).astype(np.uint32),
        _words_of(rows, 5, 10).astype(np.int64) + EPOCH_MS,
        _words_of(rows, 10, 14).astype("<u4").view("<f4"),
        _words_of(rows, 14, 16).astype(np.uint16),
        rows[:, 0] >> 4 >= _EXPLORED,
        _words_of(rows, SIGNED_BYTES, TOKEN_BYTES),
    )


def hashes_of(tokens: Sequence[str]) -> NDArray[np.uint64]:
    """The hashes [n] of tokens [n] that this service has made, as `ReadTokens` has them."""
    rows = np.frombuffer(urlsafe_b64decode("".join(tokens)), np.uint8).reshape(len(tokens), TOKEN_BYTES)
    return _words_of(rows, SIGNED_BYTES, TOKEN_BYTES)


def now_ms() -> int:
    """Unix time in milliseconds."""
    return time.time_ns() // 1_000_000


def taken_until_ms(made_ms: NDArray[np.int64], attribution_ms: int) -> NDArray[np.int64]:
    """Until when tokens that were made then [n] are taken by some machine: clocks differ."""
    found: NDArray[np.int64] = made_ms + (attribution_ms + 2 * SKEW_MS)
    return found


def _since_epoch(made_ms: int) -> int:
    """What a token has of a Unix time: the nearest that it can say, so that a wrong clock stops no answer."""
    since = made_ms - EPOCH_MS
    if 0 <= since <= _MAX_MADE:  # faster than min and max
        return since
    return 0 if since < 0 else _MAX_MADE


def log_odds(pctrs: NDArray[np.float64]) -> NDArray[np.float32]:
    """Log-odds [n] of pCTRs [n]."""
    probabilities = np.clip(pctrs, _LEAST, _MOST)
    # Not numpy's logarithm: it depends on the processor, and the native core has the C library's.
    odds = (probabilities / (1.0 - probabilities)).tolist()
    return np.fromiter(map(math.log, odds), np.float64, len(odds)).astype("<f4")


def _bytes_of(number: int, size: int) -> NDArray[np.uint8]:
    return np.frombuffer(number.to_bytes(size, "little"), np.uint8)


def _words_of(rows: NDArray[np.uint8], start: int, stop: int) -> NDArray[np.uint64]:
    """Bytes `start` to `stop` of each row [n, bytes] as numbers [n]."""
    padded = np.zeros((len(rows), 8), np.uint8)
    padded[:, : stop - start] = rows[:, start:stop]
    return padded.view("<u8")[:, 0].astype(np.uint64)


def _bytes_of_tokens(tokens: Sequence[str]) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """The bytes of tokens [n, TOKEN_BYTES], and which of these [n] were base64url of that length."""
    whole = [token if len(token) == TOKEN_CHARACTERS and token.isascii() else _MALFORMED for token in tokens]
    characters = np.frombuffer("".join(whole).encode(), np.uint8)
    digits = _DIGITS[characters].reshape(len(whole), TOKEN_CHARACTERS)
    is_text: NDArray[np.bool_] = (digits != _NO_DIGIT).all(axis=1)
    fours = digits.reshape(len(whole), TOKEN_CHARACTERS // 4, 4)
    rows = np.empty((len(whole), TOKEN_BYTES // 3, 3), np.uint8)
    rows[..., 0] = fours[..., 0] << 2 | fours[..., 1] >> 4
    rows[..., 1] = fours[..., 1] << 4 | fours[..., 2] >> 2
    rows[..., 2] = fours[..., 2] << 6 | fours[..., 3]
    return rows.reshape(len(whole), TOKEN_BYTES), is_text
