"""Sampling non-clicks: the right share, all clicks, a new sample each epoch, whole batches."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from export.data.encoded import Part, batches
from export.train.config import TrainConfig, rows_an_epoch
from export.train.sampling import epoch_batches, steps_an_epoch

CONFIG = TrainConfig(batch_size=64, negative_rate=0.2, seed=3)


def a_part(rows: int = 3000) -> Part:
    """Each row's id is its number."""
    labels = (np.random.default_rng(0).random(rows) < 0.1).astype(np.uint8)
    ids = np.arange(rows, dtype=np.int32)[:, None]
    return Part(ids=ids, labels=labels, true_pctr=None, timestamps=None)


def drawn(part: Part, config: TrainConfig, epoch: int) -> NDArray[np.int32]:
    """The numbers of the rows of an epoch, in its order."""
    return np.concatenate([batch.ids[:, 0] for batch in epoch_batches(part, config, epoch)])


def test_an_epoch_has_every_click_and_that_share_of_the_others() -> None:
    part = a_part()
    rows = drawn(part, CONFIG, epoch=1)
    assert len(set(rows.tolist())) == len(rows)
    labels = part.labels[rows]
    assert labels.sum() == part.clicks
    assert (labels == 0).sum() == round(0.2 * (len(part) - part.clicks))
    assert len(rows) == rows_an_epoch(len(part), part.clicks, 0.2)
    others = np.sort(rows[labels == 0])
    assert 1300 < np.median(others) < 1700  # from the whole part


def test_rows_keep_their_labels_and_batches_their_size() -> None:
    part = a_part()
    found = list(epoch_batches(part, CONFIG, 1))
    assert [len(batch.labels) for batch in found[:-1]] == [64] * (len(found) - 1)
    assert 0 < len(found[-1][1]) <= 64
    assert len(found) == steps_an_epoch(part, CONFIG)
    for ids, labels, _ in found:
        assert np.array_equal(part.labels[ids[:, 0]], labels)


def test_each_epoch_samples_others_and_the_same_seed_the_same() -> None:
    part = a_part()
    first, second = drawn(part, CONFIG, 1), drawn(part, CONFIG, 2)
    assert np.array_equal(first, drawn(part, CONFIG, 1))
    common = len(set(first.tolist()) & set(second.tolist())) - part.clicks
    assert common == pytest.approx(0.2 * 0.2 * (len(part) - part.clicks), rel=0.4)
    assert not np.array_equal(first, drawn(part, replace(CONFIG, seed=4), 1))


def test_with_all_rows_it_is_the_batches_of_the_log() -> None:
    part, config = a_part(), replace(CONFIG, negative_rate=1.0)
    pairs = zip(epoch_batches(part, config, 2), batches(part, 64, seed=5), strict=True)
    assert all(np.array_equal(a.ids, b.ids) and np.array_equal(a.labels, b.labels) for a, b in pairs)
    assert steps_an_epoch(part, config) == 47


def test_a_share_so_small_that_no_other_row_is_left_still_trains_on_clicks() -> None:
    part = a_part()
    config = replace(CONFIG, negative_rate=1e-6)
    assert set(drawn(part, config, 1).tolist()) == set(np.flatnonzero(part.labels).tolist())
