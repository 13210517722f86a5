"""What shadows said is found by the tokens' events, in any process, as long as their window lasts."""

from __future__ import annotations

import os
import signal
import time

import numpy as np
import pytest
from numpy.typing import NDArray

from service.errors import BadConfiguration
from service.feedback.shadow_table import CLICKED, SHOWN, WAYS, ShadowTable

WINDOW, NOW = 60, 1_800_000_000


def hashes(count: int, seed: int = 0) -> NDArray[np.uint64]:
    return np.random.default_rng(seed).integers(1, 2**64, count, np.uint64)


def test_events_find_what_each_shadow_said_and_what_happened_before() -> None:
    table = ShadowTable(1 << 12, WINDOW)
    assert table.is_empty
    tokens, others = hashes(100), hashes(100, seed=1)
    said = {number: np.linspace(-5.0, 2.0, 100) * number for number in (1, 7)}
    for number, log_odds in said.items():
        assert table.put(tokens, log_odds, number, NOW) == 100
    assert not table.is_empty
    assert len(table.mark(others, SHOWN, NOW).events) == 0
    for happened, before in ((SHOWN, 0), (CLICKED, SHOWN), (SHOWN, SHOWN | CLICKED)):
        found = table.mark(tokens[:50], happened, NOW + WINDOW)
        assert len(found.events) == 100
        for number, log_odds in said.items():
            is_it = found.numbers == number
            assert found.events[is_it].tolist() == [*range(50)]
            np.testing.assert_array_equal(found.log_odds[is_it], log_odds[:50])
            assert set(found.before[is_it]) == {before}
    assert set(table.mark(tokens[50:], CLICKED, NOW).before) == {0}


def test_a_token_stays_for_its_window_and_what_has_no_room_is_left_out() -> None:
    table = ShadowTable(WAYS, WINDOW)  # one bucket
    tokens = hashes(3 * WAYS)
    kept = [table.put(tokens[place : place + 1], np.zeros(1), 1, NOW) for place in range(2 * WAYS)]
    assert kept == [1] * WAYS + [0] * WAYS
    assert table.mark(tokens, SHOWN, NOW + WINDOW).events.tolist() == [*range(WAYS)]
    assert len(table.mark(tokens, SHOWN, NOW + WINDOW + 1).events) == 0
    assert table.put(tokens[-1:], np.ones(1), 2, NOW + WINDOW) == 0
    assert table.put(tokens[-1:], np.ones(1), 2, NOW + WINDOW + 1) == 1
    found = table.mark(tokens, CLICKED, NOW + WINDOW + 1)
    assert (found.events.tolist(), found.numbers.tolist(), found.before.tolist()) == (
        [3 * WAYS - 1],
        [2],
        [0],
    )


def test_a_clock_that_was_set_back_costs_old_tokens_and_no_new_ones() -> None:
    table = ShadowTable(WAYS, WINDOW)
    tokens = hashes(2 * WAYS)
    for token in tokens[:WAYS]:
        table.put(np.array([token]), np.zeros(1), 1, NOW)
    assert table.put(tokens[-1:], np.zeros(1), 1, NOW - 10 * WINDOW) == 1


def test_another_process_finds_it_and_half_of_a_slot_is_found_by_nobody() -> None:
    """One process writes the same slots all the time, and is killed within; no reader meets a mixture."""
    table = ShadowTable(WAYS, WINDOW)
    tokens = hashes(64)
    writer = os.fork()
    if writer == 0:
        number = 0
        while True:  # each token has log-odds of its own
            number = (number + 1) % 64
            table.put(tokens[number : number + 1], np.array([float(number)]), number, NOW + 100 * number)
    try:
        deadline, seen = time.monotonic() + 60.0, set[int]()
        while len(seen) < 8 and time.monotonic() < deadline:
            for moment in range(0, 6400, 100):
                found = table.mark(tokens, SHOWN, NOW + moment)
                for event, number, log_odds in zip(found.events, found.numbers, found.log_odds, strict=True):
                    assert event == number == log_odds
                    seen.add(int(event))
        assert len(seen) >= 8
    finally:
        os.kill(writer, signal.SIGKILL)
        os.waitpid(writer, 0)


def test_more_memory_than_there_is_is_refused() -> None:
    with pytest.raises(BadConfiguration, match="'max_attributed_events' must be so many"):
        ShadowTable(1 << 60, WINDOW)
