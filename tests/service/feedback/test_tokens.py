"""A token says what its candidate was, in any of both ways of making it, and nobody else can make one."""

from __future__ import annotations

import base64
import math
import re
import time
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.bidding import BidPolicy, bids, native_policy
from service.bundle.native import IS_BUILT
from service.feedback.keys import Key
from service.feedback.tokens import (
    EPOCH_MS,
    SKEW_MS,
    Numbers,
    ReadTokens,
    Reason,
    Source,
    TokenReader,
    TokenSigner,
    hashes_of,
    log_odds,
)
from service.reading import decode_request, read_plain
from service.wire import JSON, MSGPACK, Codec, answer_of, asked_of, before_results

KEY, OLD_KEY, STRANGERS = Key(3, bytes(range(16))), Key(2, b"\x01" * 16), Key(3, b"\x02" * 16)
SOURCE = Source("control", "tiny@12345678", "float32")
NOW = EPOCH_MS + 200_000_000_123
DAY_MS = 86_400_000
READER = TokenReader((KEY, OLD_KEY))


def signer_with(
    key: Key = KEY, source: Source = SOURCE, revision: int = 0, *, is_explored: bool = False
) -> TokenSigner:
    signer = TokenSigner(key, source, Numbers()).of_revision(revision)
    return signer.explored if is_explored else signer


def read(*tokens: str) -> ReadTokens:
    return READER.read(tokens, {SOURCE.number}, NOW, DAY_MS)


def reason_of(token: str) -> Reason:
    """Of a token between others, which it does not change."""
    good = token_at(NOW)
    before, found, after = map(Reason, read(good, token, good).reasons)
    assert before is after is Reason.OK
    return found


def token_at(made_ms: int, **of: Any) -> str:
    (token,) = signer_with(**of).tokens_at(np.array([0.0123]), made_ms, 7)
    return token


@given(
    pctrs=st.lists(st.floats(0.0, 1.0), min_size=1, max_size=20),
    age_ms=st.integers(-SKEW_MS, DAY_MS),
    first=st.integers(0, 2**48 - 1),
    revision=st.integers(0, 2**16 - 1),
    key=st.sampled_from([KEY, OLD_KEY]),
)
def test_what_is_signed_is_read(pctrs: list[float], age_ms: int, first: int, revision: int, key: Key) -> None:
    made_ms = NOW - age_ms
    tokens = signer_with(key, revision=revision).tokens_at(np.array(pctrs), made_ms, first)
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{40}", token) for token in tokens)
    np.testing.assert_array_equal(hashes_of(tokens), read(*tokens).hashes)
    assert len(set(tokens)) == len(tokens)
    found = read(*tokens)
    assert set(found.reasons.tolist()) == {Reason.OK}
    assert set(found.sources.tolist()) == {SOURCE.number}
    assert set(found.made_ms.tolist()) == {made_ms}
    assert set(found.revisions.tolist()) == {revision}
    assert len(set(found.hashes.tolist())) == len(tokens)
    assert found.pctrs == pytest.approx(np.array(pctrs), rel=1e-5, abs=1e-30)


def test_the_bytes_are_as_the_module_says() -> None:
    raw = base64.urlsafe_b64decode(token_at(NOW, revision=0x0102))
    assert (raw[0] >> 4, raw[0] & 15) == (1, KEY.number)
    assert int.from_bytes(raw[1:5], "little") == SOURCE.number
    assert int.from_bytes(raw[5:10], "little") == NOW - EPOCH_MS
    assert np.frombuffer(raw[10:14], "<f4")[0] == np.float32(math.log(0.0123 / (1 - 0.0123)))
    assert int.from_bytes(raw[14:16], "little") == 0x0102
    assert int.from_bytes(raw[16:22], "little") == 7


def test_log_odds_are_finite_for_every_probability() -> None:
    found = log_odds(np.array([0.0, 5e-324, 1e-6, 0.5, 1 - 1e-6, 1.0 - 2**-53, 1.0]))
    assert np.isfinite(found).all()
    assert (np.diff(found) >= 0).all()
    assert found[3] == 0.0


@pytest.mark.parametrize("place", range(40))
def test_a_token_that_was_altered_is_refused(place: int) -> None:
    token = token_at(NOW)
    other = "A" if token[place] != "A" else "Q"
    altered = token[:place] + other + token[place + 1 :]
    # The first two characters have the version and the key's number.
    allowed = {Reason.FORGED} if place > 1 else {Reason.FORGED, Reason.MALFORMED, Reason.UNKNOWN_KEY}
    assert reason_of(altered) in allowed


@pytest.mark.parametrize(
    "token",
    ["", "A" * 39, "A" * 41, "é" * 40, "\ud800" * 40, "+" * 40, "=" * 40, "A" * 40, " " * 40, "\0" * 40],
)
def test_what_is_no_token_is_malformed(token: str) -> None:
    assert reason_of(token) is Reason.MALFORMED


@given(st.text(max_size=60) | st.text("AE-_9/+=", min_size=40, max_size=40))
def test_any_text_is_refused(text: str) -> None:
    assert reason_of(text) is not Reason.OK


@pytest.mark.parametrize(
    ("token", "reason"),
    [
        (token_at(NOW, key=STRANGERS), Reason.FORGED),
        (token_at(NOW, key=Key(9, KEY.secret)), Reason.UNKNOWN_KEY),
        (
            token_at(NOW, source=Source("treatment", SOURCE.bundle, SOURCE.variant)),
            Reason.UNKNOWN_BUNDLE,
        ),
        (token_at(NOW - DAY_MS), Reason.OK),
        (token_at(NOW - DAY_MS - 1), Reason.EXPIRED),
        (token_at(NOW + SKEW_MS), Reason.OK),
        (token_at(NOW + SKEW_MS + 1), Reason.FUTURE),
        (token_at(NOW, key=OLD_KEY), Reason.OK),
        # What is wrong first is told: an old forgery is no proof of a clock.
        (token_at(EPOCH_MS, key=STRANGERS), Reason.FORGED),
    ],
)
def test_the_reason_is_told(token: str, reason: Reason) -> None:
    assert reason_of(token) is reason


def test_no_tokens_are_read_as_none() -> None:
    assert len(read().reasons) == 0


def test_names_that_join_to_the_same_text_are_other_sources() -> None:
    sources = {Source("a", "b@c", "d"), Source("ab", "@c", "d"), Source("a", "b@cd", "")}
    assert len({source.number for source in sources}) == 3


def test_numbers_count_on_and_begin_anew_after_the_last() -> None:
    numbers = Numbers()
    first = numbers.take(3)
    assert numbers.take(2) == (first + 3) % 2**48
    (last, next_one) = signer_with().tokens_at(np.array([0.1, 0.1]), NOW, 2**48 - 1)
    raw = [base64.urlsafe_b64decode(token)[16:22] for token in (last, next_one)]
    assert raw == [b"\xff" * 6, bytes(6)]


@pytest.mark.parametrize("now", [0, EPOCH_MS - 1, EPOCH_MS + 2**40])
def test_a_clock_beyond_what_tokens_can_say_stops_no_answer(
    now: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As that of a machine that starts without a battery."""
    monkeypatch.setattr(time, "time_ns", lambda: now * 1_000_000)
    signer, pctrs = signer_with(), np.array([0.1])
    (token,) = signer.tokens(pctrs)
    made_ms = int.from_bytes(base64.urlsafe_b64decode(token)[5:10], "little") + EPOCH_MS
    assert made_ms == min(max(now, EPOCH_MS), EPOCH_MS + 2**40 - 1)
    if IS_BUILT:
        plain = read_plain(b'{"candidates": [{}], "tracking": true}', JSON, 1)
        assert plain is not None
        before, keys = before_results(JSON, "arm", "b@1")
        answer, _ = signer.answer(plain, pctrs, pctrs, before, native_policy(BidPolicy()), keys)
        (result,) = msgspec.json.decode(answer)["results"]
        assert result["token"][:20] == token[:20]  # up to its number


@pytest.mark.skipif(not IS_BUILT, reason="the native core was not built")
@settings(deadline=None, max_examples=200)
@given(
    codec=st.sampled_from([JSON, MSGPACK]),
    pctrs=st.lists(st.floats(0.0, 1.0) | st.floats(1e-6, 0.2), min_size=1, max_size=40),
    as_rows=st.booleans(),
    made_ms=st.integers(EPOCH_MS, EPOCH_MS + 2**40 - 1),
    first=st.integers(0, 2**48 - 1) | st.integers(2**48 - 20, 2**48 - 1),
    revision=st.integers(0, 2**16 - 1),
    secret=st.binary(min_size=16, max_size=16),
    text=st.none() | st.text(max_size=300),
    is_corrected=st.booleans(),
    is_explored=st.booleans(),
)
def test_the_core_writes_the_same_answers(
    codec: Codec,
    pctrs: list[float],
    as_rows: bool,
    made_ms: int,
    first: int,
    revision: int,
    secret: bytes,
    text: str | None,
    is_corrected: bool,
    is_explored: bool,
) -> None:
    ids = [text, *["ad"] * (len(pctrs) - 1)]
    ads: Any = [{"id": name, "value_per_click": 1.5} for name in ids]
    request = {"id": text, "tracking": True, "candidates": ads if as_rows else {"id": ids}}
    body = msgspec.json.encode(request) if codec is JSON else msgspec.msgpack.encode(request)
    decoded, plain = decode_request(body, codec), read_plain(body, codec, len(pctrs))
    asked = asked_of(decoded)
    assert plain is not None
    assert plain.tracking is decoded.tracking is True
    found, policy = np.array(pctrs), BidPolicy()
    signer = signer_with(Key(5, secret), revision=revision, is_explored=is_explored)
    own = found[::-1].copy() if is_corrected else found
    tokens = signer.tokens_at(own, made_ms, first)
    offers = bids(found, asked.values_per_click, asked.bid_floors, policy)
    expected = codec.encode(
        answer_of(*(asked, "arm", "b@1", found, offers, tokens), revision=revision, is_explored=is_explored)
    )
    before, keys = before_results(codec, "arm", "b@1", revision, is_explored=is_explored)
    answer, _ = plain.answer(
        found,
        before,
        native_policy(policy),
        signer._native,
        made_ms - EPOCH_MS,
        first,
        own if is_corrected else None,
        keys,
    )
    assert answer == expected
    with pytest.raises(ValueError, match="one number a candidate"):
        plain.answer(found, b"", native_policy(policy), signer._native, 0, 0, np.zeros(len(found) + 1))


def test_a_signer_signs_for_each_revision() -> None:
    signer = signer_with()
    for revision in (3, 3, 65_535, 0, 4):
        (token,) = signer.of_revision(revision).tokens_at(np.array([0.1]), NOW, 7)
        assert token == signer_with(revision=revision).tokens_at(np.array([0.1]), NOW, 7)[0]
    assert signer.of_revision(4) is signer.of_revision(4)
    assert signer.of_revision(0) is signer
