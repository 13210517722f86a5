"""Counts of arms by the hour: of all processes together, of the last hours alone."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest

from service.calibration.counts import CLICKS, IMPRESSIONS
from service.calibration.hours import HOUR_MS, HOURS, HourMemory
from service.calibration.slots import SlotPart
from service.errors import BadConfiguration

START = 500_000 * HOUR_MS


def test_hours_of_all_processes_are_those_of_a_naive_count() -> None:
    chance, arms = random.Random(5), ("control", "treatment")
    memory = HourMemory(3, arms)
    parts = [SlotPart(memory, number) for number in range(3)]
    naive: Counter[tuple[str, int, bool]] = Counter()
    now = START
    for _ in range(400):
        now += chance.randrange(HOUR_MS // 2)  # over 100 hours in all
        made = now - chance.randrange(3 * HOUR_MS)
        arm, is_click, rows = chance.choice(arms), chance.random() < 0.3, chance.randrange(1, 5)
        chance.choice(parts).add(
            arm, np.full(rows, made), np.full(rows, -3.0, np.float32), np.full(rows, is_click)
        )
        naive[arm, made // HOUR_MS, is_click] += rows
    for arm in arms:
        found = memory.hours(arm, now)
        late = {hour for name, hour, _ in naive if name == arm and hour > now // HOUR_MS - HOURS}
        assert [*found] == sorted(late)
        for hour, counts in found.items():
            assert counts[:, IMPRESSIONS].sum() == naive[arm, hour, False]
            assert counts[:, CLICKS].sum() == naive[arm, hour, True]


def test_what_is_old_or_of_another_arm_is_nowhere() -> None:
    memory = HourMemory(1, ["only"])
    part = SlotPart(memory, 0)
    event = np.zeros(1, np.float32), np.zeros(1, bool)
    part.add("only", np.array([START]), *event)
    part.add("another", np.array([START]), *event)
    assert [*memory.hours("only", START)] == [START // HOUR_MS]
    assert memory.hours("another", START) == {}
    assert memory.hours("only", START + (HOURS - 1) * HOUR_MS) != {}
    assert memory.hours("only", START + HOURS * HOUR_MS) == {}
    # A late event of an hour whose place another one has takes nothing from that.
    part.add("only", np.array([START + HOURS * HOUR_MS]), *event)
    part.add("only", np.array([START]), *event)
    assert [*memory.hours("only", START + HOURS * HOUR_MS)] == [START // HOUR_MS + HOURS]


def test_memory_that_is_not_there_refuses_the_start() -> None:
    with pytest.raises(BadConfiguration, match="'feedback_keys' must have memory for counts by the hour"):
        HourMemory(1 << 40, ["only"])
