"""Batches: every row once, in an order that depends on the seed only."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from export.data.encoded import Part, batches


def part_of(rows: int) -> Part:
    return Part(
        np.arange(rows, dtype=np.int32).reshape(-1, 1), (np.arange(rows) % 2).astype(np.uint8), None, None
    )


@given(
    st.integers(1, 30_000),
    st.integers(1, 5000),
    st.integers(0, 5) | st.none(),
    st.sampled_from([1, 9000, 10**6]),
)
@settings(max_examples=30, deadline=None)
def test_batches_hold_every_row_once(rows: int, size: int, seed: int | None, window: int) -> None:
    found = list(batches(part_of(rows), size, seed=seed, window_rows=window))
    assert [len(batch.labels) for batch in found[:-1]] == [size] * (len(found) - 1)
    ids = np.concatenate([batch.ids[:, 0] for batch in found])
    assert np.array_equal(np.sort(ids), np.arange(rows))
    assert np.array_equal(np.concatenate([batch.labels for batch in found]), ids % 2)


def test_batches_are_shuffled_by_the_seed_alone() -> None:
    def order(seed: int | None) -> list[int]:
        return np.concatenate(
            [batch.ids[:, 0] for batch in batches(part_of(20_000), 512, seed=seed)]
        ).tolist()

    assert order(None) == list(range(20_000))
    assert order(1) == order(1) != order(2)
    assert abs(np.corrcoef(order(1), range(20_000))[0, 1]) < 0.05
    with pytest.raises(ValueError, match="'batch_size' must be at least 1"):
        next(batches(part_of(3), 0))
