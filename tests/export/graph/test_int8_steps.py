"""Steps of activations: what was seen is rounded by half a step, and no column is lost for another's size."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from export.graph.int8_layers import WEIGHT_LIMIT
from export.graph.int8_steps import ACTIVATION_LIMIT, Step, step_of

Floats = NDArray[np.float64]
SIZES = st.floats(1e-3, 1e3)


def dequantized(values: Floats, step: Step) -> Floats:
    """values [n, in] as the integers that a layer reads, times their step."""
    evened = values if step.factors is None else values * step.factors
    codes = np.clip(np.round(evened / step.size) + step.zero_point, 0, ACTIVATION_LIMIT)
    return (codes - step.zero_point) * np.float64(step.size)


def rounded_weights(weights: Floats, step: Step) -> Floats:
    """weights [outputs, in] as integers of a scale for each output, times the scale."""
    evened = weights if step.factors is None else weights / step.factors
    scales = np.abs(evened).max(axis=1, keepdims=True) / WEIGHT_LIMIT
    return np.round(evened / scales) * scales


@given(st.lists(st.tuples(SIZES, SIZES, st.booleans(), st.booleans()), min_size=1, max_size=6))
def test_what_was_seen_is_off_by_half_a_step_and_zero_by_nothing(
    columns: list[tuple[float, float, bool, bool]],
) -> None:
    smallest = np.array([-low if has_low else 0.0 for low, _, has_low, _ in columns], np.float32)
    largest = np.array([high if has_high else 0.0 for _, high, _, has_high in columns], np.float32)
    weights = np.ones((3, len(columns)), np.float32)
    step = step_of(smallest, largest, weights)
    values = np.stack([smallest, largest, 0 * largest]).astype(np.float64)
    factors = 1.0 if step.factors is None else step.factors
    off = np.abs(dequantized(values, step) - values * factors)
    assert (off <= 0.5001 * step.size).all()
    assert (off[2] == 0.0).all()
    assert 0 <= step.zero_point <= ACTIVATION_LIMIT
    span = float((largest * factors).max() - (smallest * factors).min())
    assert step.size * ACTIVATION_LIMIT <= 1.3 * span or span == 0.0, "no code is given away to one side"


def test_small_columns_are_lost_neither_as_numbers_nor_as_weights() -> None:
    generator = np.random.default_rng(0)
    sizes = np.repeat([5.0, 0.02, 0.0], (10, 90, 5))
    values = generator.normal(size=(2000, 105)) * sizes
    weights = generator.normal(size=(60, 105))
    smallest, largest = values.min(axis=0).clip(max=0), values.max(axis=0).clip(min=0)
    step = step_of(smallest.astype(np.float32), largest.astype(np.float32), weights.astype(np.float32))

    def error(step: Step, size: float) -> float:
        """Of what columns of this size add to the outputs, relative."""
        own = sizes == size
        expected = values[:, own] @ weights[:, own].T
        found = dequantized(values, step)[:, own] @ rounded_weights(weights, step)[:, own].T
        return float((found - expected).std() / expected.std())

    assert error(step, 5.0) < 0.02
    assert error(step, 0.02) < 0.3
    as_they_are = Step(np.float32(1.25 * (largest.max() - smallest.min()) / ACTIVATION_LIMIT), 128)
    made_equal = 1.0 / np.where(sizes > 0.0, np.abs(values).max(axis=0), 1.0)
    for other in (as_they_are, Step(np.float32(2.5 / ACTIVATION_LIMIT), 128, made_equal)):
        assert error(other, 0.02) > 0.9, "numbers, or weights, are rounded to zero"
    # A column that was never seen may come to have numbers: they are not endless, and crowd out no others.
    assert step.factors is not None
    assert (np.isfinite(step.factors) & (step.factors > 0.0)).all()
    of_weights = np.abs(weights / step.factors).max(axis=0)
    assert of_weights[sizes == 0.0].max() <= of_weights[sizes > 0.0].max()


def test_columns_of_like_size_cost_no_pass_of_their_own() -> None:
    generator = np.random.default_rng(1)
    weights = generator.normal(size=(40, 30)).astype(np.float32)
    largest = generator.uniform(0.3, 1.0, 30).astype(np.float32)
    assert step_of(0 * largest, largest, weights).factors is None
    assert step_of(0 * largest, 0 * largest, weights) == Step(np.float32(1.0), 0)
