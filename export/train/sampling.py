"""The rows of an epoch: the whole training part, or its clicks and a random sample of its non-clicks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.data.encoded import Batch, Part, batches
from export.train.config import TrainConfig, rows_an_epoch


def steps_an_epoch(part: Part, config: TrainConfig) -> int:
    """The number of steps of an epoch, the same for every epoch."""
    rows = len(part.labels)
    if config.negative_rate < 1:
        rows = rows_an_epoch(rows, part.clicks, config.negative_rate)
    return -(-rows // config.batch_size)


def epoch_batches(part: Part, config: TrainConfig, epoch: int) -> Iterator[Batch]:
    """The batches of one epoch, shuffled; the last one may be smaller.

    With a negative rate below 1 exactly that share of the non-clicks is sampled, another sample in each
    epoch. The same seed gives the same samples.
    """
    stream = batches(part, config.batch_size, seed=config.seed + epoch)
    if config.negative_rate == 1:
        return stream
    return _rebatched(_sampled(stream, part, config, epoch), config.batch_size)


def _sampled(stream: Iterator[Batch], part: Part, config: TrainConfig, epoch: int) -> Iterator[Batch]:
    """The batches without the non-clicks that this epoch omits."""
    others = len(part) - part.clicks
    kept = np.zeros(others, dtype=bool)  # for each non-click, in the order of the stream
    kept[: round(config.negative_rate * others)] = True
    np.random.default_rng((config.seed, epoch)).shuffle(kept)
    seen = 0
    for batch in stream:
        rows: NDArray[Any] = batch.labels == 1
        count = len(rows) - int(np.count_nonzero(rows))
        rows[~rows] = kept[seen : seen + count]
        seen += count
        yield batch.rows(rows)


def _rebatched(stream: Iterator[Batch], batch_size: int) -> Iterator[Batch]:
    """Batches of any size -> batches of `batch_size`, and one of the remaining rows."""
    held: list[Batch] = []
    rows = 0
    for batch in stream:
        held.append(batch)
        rows += len(batch.labels)
        if rows >= batch_size:
            joined = _joined(held)
            whole = rows - rows % batch_size
            for start in range(0, whole, batch_size):
                yield joined.rows(slice(start, start + batch_size))
            held, rows = [joined.rows(slice(whole, None))], rows - whole
    if rows:
        yield _joined(held)


def _joined(held: list[Batch]) -> Batch:
    taught = [batch.taught for batch in held if batch.taught is not None]
    return Batch(
        np.concatenate([batch.ids for batch in held]),
        np.concatenate([batch.labels for batch in held]),
        np.concatenate(taught) if taught else None,
    )
