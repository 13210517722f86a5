"""Fits the trees of GBDT+LR on the training part of an encoded log, before the regression is trained.

It knows the boosting library, and that the model takes a number for each id and complete trees.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier

from export.data.encoded import Part
from export.judge.metrics import logloss, sigmoid
from export.train.loop import Log
from models.fields import PADDING_ID
from models.gbdt_lr import ALWAYS_LEFT, GBDTLR, Trees

Floats = NDArray[np.float64]
Folds = NDArray[np.uint8]

MOST_ROWS = 1_000_000  # rows that trees are fitted on; more change little and take memory
CHUNK_ROWS = 131_072
FOLDS = 4
UNEVEN = 2.0  # blocks of rows whose click rates differ by more are no folds
PRIOR_ROWS = 20.0  # rows at the average click rate that smooth an id's rate
SHRINKAGE, L2, SMALLEST_LEAF = 0.1, 1.0, 50


def fit_trees(model: GBDTLR, log: Log, *, seed: int, report: Callable[[str], None] = print) -> None:
    """Fits the model's trees, in place, to log.parts["train"]; their number minimises the validation loss.

    The trees read an id of a categorical field as its click rate among the training rows, and an id of a
    numeric field as its number. They are fitted on click rates without the row's own fold, because the full
    rate of a rare id reveals its label.
    """
    train, validation = log.parts["train"], log.parts["validation"]
    rates = ClickRates(model, train, folds_of(train, seed))
    numbers = rates.numbers()
    step = -(-len(train) // MOST_ROWS)
    boosting = HistGradientBoostingClassifier(
        max_iter=model.trees,
        max_depth=model.depth,
        max_leaf_nodes=2**model.depth,
        learning_rate=SHRINKAGE,
        l2_regularization=L2,
        min_samples_leaf=min(SMALLEST_LEAF, max(1, len(train) // 200)),
        early_stopping=False,
        random_state=seed,
    )
    boosting.fit(*rates.out_of_fold(step))
    held_out = _read(model, numbers, np.asarray(validation.ids[: MOST_ROWS // 4]))
    labels = np.asarray(validation.labels[: MOST_ROWS // 4])
    losses = [logloss(labels, sigmoid(scores)) for scores in _staged_scores(boosting, held_out)]
    count = int(np.argmin(losses)) + 1
    trees, bias = trees_of(boosting, model, count)
    model.set_trees(torch.from_numpy(numbers.astype(np.float32)), trees, bias)
    report(f"boosted {count} of {model.trees} trees of depth {model.depth}: validation {min(losses):.5f}")


def folds_of(part: Part, seed: int) -> Folds:
    """The fold of each row, [n]: FOLDS blocks of the log, one after the other.

    An id of one block only is then as unknown to the trees as a new one after the training part, and a log
    whose rows follow a pattern (a click, then four non-clicks) has it in every fold. Rows of a log sorted by
    label are drawn by chance: the other blocks' click rates would say the opposite of the row's own.
    """
    blocks = np.array_split(np.asarray(part.labels), FOLDS)
    rates = [float(block.mean()) if len(block) else 0.0 for block in blocks]
    if max(rates) > UNEVEN * min(rates):
        return np.random.default_rng(seed).integers(0, FOLDS, len(part), dtype=np.uint8)
    return np.repeat(np.arange(FOLDS, dtype=np.uint8), [len(block) for block in blocks])


class ClickRates:
    """Rows and clicks of each id in each fold of the training part; `folds` is the fold of each row, [n]."""

    def __init__(self, model: GBDTLR, part: Part, folds: Folds) -> None:
        self.model, self.part, self.folds = model, part, folds
        size = (FOLDS, len(model.numbers))
        self.rows, self.clicks = np.zeros(size), np.zeros(size)
        offsets = model.offsets.numpy()
        for ids, labels, folds in self._chunks():
            rows = ids + offsets
            for fold in range(FOLDS):
                own = folds == fold
                self.rows[fold] += np.bincount(rows[own].ravel(), minlength=size[1])
                self.clicks[fold] += np.bincount(rows[own & (labels == 1)].ravel(), minlength=size[1])

    def numbers(self, without_fold: int | None = None) -> Floats:
        """The number that the trees read for each id, [rows of the table]."""
        kept = [fold for fold in range(FOLDS) if fold != without_fold]
        rows, clicks = self.rows[kept].sum(axis=0), self.clicks[kept].sum(axis=0)
        average = self.part.clicks / len(self.part)
        numbers: Floats = (clicks + PRIOR_ROWS * average) / (rows + PRIOR_ROWS)
        first = 0
        for field in self.model.fields_as_read:
            if field.values is not None:
                values = np.array(field.values)
                values[PADDING_ID] = values.min() - 1.0  # a missing number is below all others
                numbers[first : first + field.cardinality] = values
            first += field.cardinality
        return numbers

    def out_of_fold(self, step: int) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """One of `step` training rows as the trees read it, [n, n_fields], and its label, [n].

        The numbers of its ids are without its own fold.
        """
        by_fold = [self.numbers(without_fold=fold) for fold in range(FOLDS)]
        chunks, clicks = [], []
        for ids, labels, folds in self._chunks(step):
            clicks.append(labels)
            chunk = np.empty((len(ids), len(self.model.fields)), np.float32)
            for fold in range(FOLDS):
                chunk[folds == fold] = _read(self.model, by_fold[fold], ids[folds == fold])
            chunks.append(chunk)
        return np.concatenate(chunks), np.concatenate(clicks)

    def _chunks(self, step: int = 1) -> Iterator[tuple[NDArray[np.int32], NDArray[np.uint8], Folds]]:
        """ids, labels and folds of one of every `step` rows, in chunks.

        It is drawn by chance: every fifth row of a log of pages of five may be its click.
        """
        draw = np.random.default_rng(0)
        for start in range(0, len(self.part), CHUNK_ROWS * step):
            first = np.arange(start, min(start + CHUNK_ROWS * step, len(self.part)), step)
            rows = np.minimum(first + draw.integers(0, step, len(first)), len(self.part) - 1)
            yield np.asarray(self.part.ids[rows]), np.asarray(self.part.labels[rows]), self.folds[rows]


def _read(model: GBDTLR, numbers: Floats, ids: NDArray[np.int32]) -> NDArray[np.float32]:
    """ids [n, columns] -> what the trees read, [n, n_fields]; `numbers` holds the number of each id."""
    tensor = torch.from_numpy(np.require(ids, requirements=["C", "W"]))  # torch warns of a read-only array
    with torch.inference_mode():
        read: NDArray[np.float32] = model.numbers_of(
            tensor, torch.from_numpy(numbers.astype(np.float32))
        ).numpy()
    return read


def _staged_scores(boosting: HistGradientBoostingClassifier, rows: NDArray[np.float32]) -> Iterator[Floats]:
    """The ensemble's score of each row, [n], after one tree, two trees, and so on."""
    for scores in boosting.staged_decision_function(rows):
        yield np.asarray(scores, np.float64).ravel()


def trees_of(boosting: HistGradientBoostingClassifier, model: GBDTLR, count: int) -> tuple[Trees, float]:
    """The first `count` fitted trees, each extended to the model's depth; later trees are constant zero.

    The library has no public access to its trees; ONNX converters read the same attributes.
    """
    nodes, leaves = 2**model.depth - 1, 2**model.depth
    fields = np.zeros((model.trees, nodes), np.int64)
    thresholds = np.full((model.trees, nodes), ALWAYS_LEFT, np.float32)
    weights = np.zeros((model.trees, leaves), np.float32)
    for tree, (predictor,) in enumerate(boosting._predictors[:count]):
        waiting = [(0, 0)]  # our node, their node
        while waiting:
            ours, theirs = waiting.pop()
            node = predictor.nodes[theirs]
            if ours >= nodes:
                weights[tree, ours - nodes] = node["value"]
            elif node["is_leaf"]:
                waiting.append((2 * ours + 1, theirs))
            else:
                fields[tree, ours] = node["feature_idx"]
                thresholds[tree, ours] = _at_most(node["num_threshold"])
                waiting += [(2 * ours + 1, int(node["left"])), (2 * ours + 2, int(node["right"]))]
    trees = Trees(torch.from_numpy(fields), torch.from_numpy(thresholds), torch.from_numpy(weights))
    return trees, float(boosting._baseline_prediction.item())


def _at_most(threshold: float) -> np.float32:
    """The largest float32 not above a threshold, which splits float32 numbers the same way."""
    nearest = np.float32(threshold)
    return nearest if nearest <= threshold else np.nextafter(nearest, np.float32(-np.inf))
