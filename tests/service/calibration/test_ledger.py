"""What members say is learned from once, and a ledger that was packed goes on as it would have."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.calibration.counts import BINS, CLICKS, Counts, count
from service.calibration.decision import (
    MAX_REVISION,
    MAX_SHARED_REVISION,
    Rules,
    next_revision,
    next_shared_revision,
)
from service.calibration.ledger import FORGET_MS, Account, Ledger, Said

MINUTE = 60_000
START = 1_800_000_000_000
# Nothing decays, and nothing is decided.
ALL = Rules(half_life_seconds=1e15, min_clicks=10**9)


def learned(account: Account) -> Counts:
    """All that an account has learned from."""
    found = [np.frombuffer(each.counts).reshape(BINS, 3) for each in account.live.recent.records]
    return np.sum([np.zeros((BINS, 3)), *found], axis=0)


def events(rng: np.random.Generator, rows: int, shift: float = 0.0) -> Counts:
    log_odds = rng.normal(-3.0, 0.7, rows)
    is_click = rng.random(rows) < 1.0 / (1.0 + np.exp(-(log_odds + shift)))
    shown = count(log_odds, np.zeros(rows, bool))
    clicked: Counts = shown + count(log_odds[is_click], np.ones(int(is_click.sum()), bool))
    return clicked


@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.integers(0, 30), st.sets(st.sampled_from("abc"))), max_size=30
    ),
    st.integers(0, 30),
)
def test_what_members_say_counts_once_however_often_and_whenever_it_is_told(
    turns: list[tuple[str, int, set[str]]], packed_at: int
) -> None:
    rng = np.random.default_rng(3)
    ledger = Ledger(ALL, next_shared_revision)
    ledger.open(7, "only", START)
    totals = {member: np.zeros((BINS, 3)) for member in "abc"}
    told = dict(totals)
    for turn, (member, rows, heard) in enumerate(turns):
        totals[member] = totals[member] + events(rng, rows)
        now = START + turn * MINUTE
        ledger.accounts[7].step({each: Said(now, totals[each]) for each in heard}, now)
        told |= {each: totals[each] for each in heard}
        if turn == packed_at:
            ledger = Ledger.unpack(ledger.pack(), ALL, next_shared_revision)
        assert learned(ledger.accounts[7]) == pytest.approx(sum(told.values()))


@pytest.mark.parametrize("at", [START, START + 2 * MINUTE])
def test_what_was_said_before_and_comes_late_is_not_new_again(at: int) -> None:
    """As of a connection that hung, a Redis that fell back on a copy, or a clock that was set back."""
    rng = np.random.default_rng(6)
    account = Ledger(ALL).open(7, "only", START)
    early, late = events(rng, 300), events(rng, 200)
    for minute, counts in enumerate((early, early + late, early, early + late)):
        time = at if counts is early else START + minute * MINUTE
        account.step({"a": Said(time, counts)}, START + minute * MINUTE)
    assert learned(account) == pytest.approx(early + late)


def test_who_still_reports_is_not_forgotten() -> None:
    account = Ledger(ALL).open(7, "only", START)
    counts = events(np.random.default_rng(7), 300)
    for day in range(4):  # it came to say no later time
        account.step({"a": Said(START, counts)}, START + day * FORGET_MS)
    assert learned(account) == pytest.approx(counts)


def test_a_packed_ledger_goes_on_bit_by_bit() -> None:
    rules = Rules(half_life_seconds=3_600.0)
    rng = np.random.default_rng(4)
    one = Ledger(rules, next_shared_revision)
    one.open(7, "only", START)
    other = Ledger.unpack(one.pack(), rules, next_shared_revision)
    total = np.zeros((BINS, 3))
    for minute in range(60):
        total = total + events(rng, 2_000, 0.5 if minute < 30 else -0.5)
        now = START + minute * MINUTE
        said = {"a": Said(now, total)}
        made = [ledger.accounts[7].step(said, now) for ledger in (one, other)]
        assert made[0] == made[1]
        other = Ledger.unpack(other.pack(), rules, next_shared_revision)
        assert one.accounts[7].live.record == other.accounts[7].live.record
    assert one.accounts[7].live.revision >= 2


def test_what_is_mature_until_a_reset_is_not_learned_from() -> None:
    rng = np.random.default_rng(5)
    ledger = Ledger(ALL)
    account = ledger.open(7, "only", START)
    total = events(rng, 500)
    account.step({"a": Said(START, total)}, START)
    ledger.reset("only", START + MINUTE)
    for minute in (1, 2):
        total = total + events(rng, 500)
        now = START + minute * MINUTE
        account.step({"a": Said(now, total), "b": Said(now, total)}, now)
        assert bool(learned(account)[:, CLICKS].any()) is (minute == 2)


def test_after_a_reset_nothing_of_before_is_learned_from_a_machine_that_was_away() -> None:
    """Nor when it was the store that was away, and no step was made meanwhile."""
    rng = np.random.default_rng(5)
    account = (ledger := Ledger(ALL)).open(7, "only", START)
    before, after = events(rng, 500), events(rng, 300)
    account.step({"a": Said(START, before), "b": Said(START, before)}, START)
    ledger.reset("only", START + MINUTE)
    for minute in (5, 6, 7):  # "b" is heard of again at the last
        now = START + minute * MINUTE
        said = {"a": Said(now, 2 * before)} | ({"b": Said(now, 2 * before)} if minute == 7 else {})
        account.step(said, now)
    assert not learned(account).any()
    account.step({name: Said(now, 2 * before + after) for name in "ab"}, now + MINUTE)
    assert learned(account) == pytest.approx(2 * after)


def test_revisions_of_one_that_was_alone_become_one_of_all() -> None:
    ledger = Ledger(Rules(), next_shared_revision)
    live = ledger.open(7, "only", START).live
    live.revision = 4
    ledger.freeze("only", is_frozen=True)
    ledger.decide_alone(lambda _: MAX_SHARED_REVISION + 9, "only")
    ledger.reset("only", START)
    ledger.decide_alone(lambda _: MAX_SHARED_REVISION + 9)  # the store went away before it knew
    assert live.revision == MAX_SHARED_REVISION + 9
    back = Ledger.unpack(ledger.pack(), Rules(), next_shared_revision)
    assert (back.accounts[7].live.revision, back.accounts[7].live.is_frozen, back.frozen) == (
        5,
        True,
        {"only"},
    )
    assert next_shared_revision(MAX_SHARED_REVISION) == next_revision(MAX_REVISION) == 1


@pytest.mark.parametrize(
    "data", [b"", b"nonsense", Ledger(Rules()).pack()[:-9], b"x\x9c\x03\x00\x00\x00\x00\x01"]
)
def test_other_bytes_are_no_ledger(data: bytes) -> None:
    with pytest.raises(ValueError, match="a ledger must be"):
        Ledger.unpack(data, Rules(), next_revision)
