"""The learning rate of a step: linear up, then exponential down."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from export.errors import ExportError
from export.train.config import TrainConfig
from export.train.schedule import learning_rate, scheduled_rate


def rates(steps: int, **schedule: float) -> list[float]:
    settings = {"base": 1e-3, "warmup_steps": 10, "decay_rate": 0.5, "decay_steps": 100, **schedule}
    return [learning_rate(step, **settings) for step in range(1, steps + 1)]  # type: ignore[arg-type]


def test_it_grows_by_a_tenth_for_ten_steps_and_halves_every_hundred() -> None:
    found = rates(210)
    assert found[:10] == pytest.approx([1e-4 * step for step in range(1, 11)])
    assert found[109] == pytest.approx(5e-4)
    assert found[209] == pytest.approx(2.5e-4)


def test_without_warmup_and_decay_it_is_constant() -> None:
    assert rates(50, warmup_steps=0, decay_rate=1.0) == [1e-3] * 50


@given(st.integers(0, 50), st.floats(0.1, 1.0), st.integers(1, 500))
def test_it_has_one_peak_at_the_end_of_the_warmup(warmup: int, rate: float, every: int) -> None:
    found = rates(150, warmup_steps=warmup, decay_rate=rate, decay_steps=every)
    peak = max(warmup, 1) - 1
    assert all(a < b for a, b in itertools.pairwise(found[: peak + 1]))
    assert all(a >= b for a, b in itertools.pairwise(found[peak:]))
    assert max(found) <= 1e-3
    assert min(found) > 0


def scheduled(steps: int, **knobs: Any) -> list[float]:
    config = TrainConfig(learning_rate=1e-3, warmup_steps=10, decay_rate=0.5, decay_steps=100, **knobs)
    return [scheduled_rate(step, config) for step in range(1, steps + 1)]


def test_schedules_have_names() -> None:
    assert scheduled(300) == scheduled(300, schedule="warmup-decay") == rates(300)
    assert scheduled(300, schedule="exponential-decay") == rates(300, warmup_steps=0)
    assert scheduled(300, schedule="constant") == [1e-3] * 300


def test_exponential_decay_starts_at_once() -> None:
    found = scheduled(200, schedule="exponential-decay")
    assert found[99] == pytest.approx(5e-4)
    assert found[199] == pytest.approx(2.5e-4)
    assert all(a > b for a, b in itertools.pairwise(found))


def test_an_unknown_schedule_is_refused() -> None:
    with pytest.raises(
        ExportError, match="'schedule' must be one of warmup-decay, exponential-decay, constant"
    ):
        TrainConfig(schedule="cosine")  # type: ignore[arg-type]
