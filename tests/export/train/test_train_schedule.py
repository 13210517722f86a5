"""The learning rate of a step: linear up, then exponential down."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from export.train.schedule import learning_rate


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
