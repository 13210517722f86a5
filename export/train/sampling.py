"""Which rows of the training part an epoch goes through: all, or the clicks and a draw of the non-clicks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.data.encoded import Part, batches
from export.train.config import TrainConfig, rows_an_epoch

Batch = tuple[NDArray[np.int32], NDArray[np.uint8]]


def steps_an_epoch(part: Part, config: TrainConfig) -> int:
    """Steps in which an epoch goes through the training part; every epoch has as many."""
    rows = len(part.labels)
    if config.negative_rate < 1:
        rows = rows_an_epoch(rows, part.clicks, config.negative_rate)
    return -(-rows // config.batch_size)


def epoch_batches(part: Part, config: TrainConfig, epoch: int) -> Iterator[Batch]:
    """ids [batch_size, columns] and labels [batch_size] of one epoch, shuffled; the last may be smaller.

    With a negative rate below 1 exactly that share of the non-clicks is drawn, others in each epoch; the same
    seed draws the same.
    """
    stream = batches(part, config.batch_size, seed=config.seed + epoch)
    if config.negative_rate == 1:
        return stream
    return _rebatched(_drawn(stream, part, config, epoch), config.batch_size)


def _drawn(stream: Iterator[Batch], part: Part, config: TrainConfig, epoch: int) -> Iterator[Batch]:
    """The batches without the non-clicks that this epoch leaves out."""
    others = len(part) - part.clicks
    kept = np.zeros(others, dtype=bool)  # for each non-click, in the order of the stream
    kept[: round(config.negative_rate * others)] = True
    np.random.default_rng((config.seed, epoch)).shuffle(kept)
    seen = 0
    for ids, labels in stream:
        rows: NDArray[Any] = labels == 1
        count = len(rows) - int(np.count_nonzero(rows))
        rows[~rows] = kept[seen : seen + count]
        seen += count
        yield ids[rows], labels[rows]


def _rebatched(pieces: Iterator[Batch], batch_size: int) -> Iterator[Batch]:
    """Pieces of any size -> whole batches and what is left."""
    held: list[Batch] = []
    rows = 0
    for piece in pieces:
        held.append(piece)
        rows += len(piece[1])
        if rows >= batch_size:
            ids, labels = _joined(held)
            whole = rows - rows % batch_size
            for start in range(0, whole, batch_size):
                yield ids[start : start + batch_size], labels[start : start + batch_size]
            held, rows = [(ids[whole:], labels[whole:])], rows - whole
    if rows:
        yield _joined(held)


def _joined(pieces: list[Batch]) -> Batch:
    return np.concatenate([ids for ids, _ in pieces]), np.concatenate([labels for _, labels in pieces])
