"""The interval of a mean over few seeds holds what it should as often as it says."""

from __future__ import annotations

import numpy as np
import pytest

from export.judge.seeds import over_seeds


@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize("noise_of_rows", [0.0, 0.3])
def test_the_interval_covers_the_truth_as_often_as_it_says(seeds: int, noise_of_rows: float) -> None:
    """The bootstrap over two seeds that it replaces covers it in half of the cases."""
    draw = np.random.default_rng(seeds)
    inside = 0
    for _ in range(2_000):
        of_rows = noise_of_rows * draw.normal(size=200)  # what other rows add, to all seeds alike
        by_seed = draw.normal(size=(seeds, 1)) + of_rows - noise_of_rows * draw.normal()
        found = over_seeds(np.column_stack((by_seed[:, :1], by_seed)))
        inside += found.low <= 0.0 <= found.high
    assert inside / 2_000 > 0.935


def test_one_seed_is_an_interval_of_rows() -> None:
    resampled = np.random.default_rng(0).normal(1.0, 0.1, (1, 5_000))
    resampled[0, 0] = 1.0
    found = over_seeds(resampled)
    assert found.delta == 1.0
    assert found.low == pytest.approx(1.0 - 0.196, abs=0.01)
    assert found.high == pytest.approx(1.0 + 0.196, abs=0.01)
