"""Boosted trees: the library's, in the number that held-out rows need, without leaking rare ids' labels."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier

from export.data.encoded import Part
from export.judge.metrics import auc
from export.train import trees
from export.train.loop import predict_logits
from models.fields import Field
from models.gbdt_lr import ALWAYS_LEFT, GBDTLR
from tests.export.memory_log import MemoryLog

NUMBERS = tuple(np.linspace(-1.0, 1.0, 12))
FIELDS = (
    Field("site", 50),
    Field("price", 12, values=NUMBERS),
    Field("history", 20, width=3, same_values_as="ad"),
    Field("ad", 20),
)


def a_log(rows: int = 6000) -> tuple[MemoryLog, NDArray[np.float64]]:
    """Clicks follow the site, the price above a limit, and the ad together with the site."""
    random = np.random.default_rng(0)
    sizes = [50, 12, 20, 20, 20, 20]
    ids = np.stack([random.integers(0, size, rows) for size in sizes], axis=1).astype(np.int32)
    truth = (ids[:, 0] % 3 == 0) * 1.5 - (ids[:, 1] > 6) * 2.0 + (ids[:, 5] % 2) * (ids[:, 0] % 2) * 2 - 1.0
    labels = (random.random(rows) < 1 / (1 + np.exp(-truth))).astype(np.uint8)
    cut = rows * 3 // 4
    parts = {
        "train": Part(ids[:cut], labels[:cut], None, None),
        "validation": Part(ids[cut:], labels[cut:], None, None),
    }
    return MemoryLog(parts), truth[cut:]


def test_they_come_near_the_truth() -> None:
    log, truth = a_log()
    model = GBDTLR(FIELDS, trees=40, depth=4)
    said: list[str] = []
    trees.fit_trees(model, log, seed=0, report=said.append)
    held_out = log.parts["validation"]
    found = auc(held_out.labels, predict_logits(model, np.asarray(held_out.ids)))
    assert found > auc(held_out.labels, truth) - 0.03
    assert "of 40 trees of depth 4" in said[0]


def test_the_models_trees_are_the_librarys() -> None:
    random = np.random.default_rng(1)
    rows = random.normal(size=(2000, len(FIELDS))).astype(np.float32)
    labels = (rows[:, 0] * rows[:, 1] + rows[:, 3] > 0).astype(np.uint8)
    boosting = HistGradientBoostingClassifier(max_iter=12, max_depth=3, max_leaf_nodes=8, random_state=0)
    boosting.fit(rows, labels)
    model = GBDTLR(FIELDS, trees=15, depth=3)
    found, bias = trees.trees_of(boosting, model, 12)
    model.set_trees(model.numbers.clone(), found, bias)
    leaves = model.leaves_of(torch.from_numpy(rows)) + model.first_leaves
    scores = (model.leaf_weights[leaves].sum(dim=1) + model.bias).detach().numpy()
    np.testing.assert_allclose(scores, boosting.decision_function(rows), rtol=1e-4, atol=1e-5)


def test_thresholds_between_neighbouring_numbers_part_them() -> None:
    """The middle of two float32 numbers may round to the upper one, which would go left with the other."""
    low = np.float32(1.0) + np.finfo(np.float32).eps
    high = np.nextafter(low, np.float32(2.0))
    assert np.float32((float(low) + float(high)) / 2) == high
    rows = np.repeat([low, high], 200).reshape(-1, 1)
    boosting = HistGradientBoostingClassifier(max_iter=1, max_depth=1, max_leaf_nodes=2, random_state=0)
    boosting.fit(rows, np.repeat([0, 1], 200))
    model = GBDTLR((Field("price", 3),), trees=1, depth=1)
    found, bias = trees.trees_of(boosting, model, 1)
    model.set_trees(model.numbers.clone(), found, bias)
    assert model.leaves_of(torch.from_numpy(rows)).flatten().tolist() == [0] * 200 + [1] * 200


def test_trees_that_do_not_lower_the_held_out_loss_do_nothing() -> None:
    log, _ = a_log(1200)
    noise = np.random.default_rng(2).integers(0, 2, 900).astype(np.uint8)
    log.parts["train"] = Part(log.parts["train"].ids, noise, None, None)
    model = GBDTLR(FIELDS, trees=30, depth=4)
    trees.fit_trees(model, log, seed=0, report=lambda _: None)
    idle = (model.get_trees().thresholds == ALWAYS_LEFT).all(dim=1)
    assert 20 < int(idle.sum()) < 30
    assert not model.get_trees().leaves[idle].any()


def test_a_unique_id_does_not_reveal_the_label() -> None:
    """With a unique id per row, click rates that include the row itself would reveal its label."""
    random = np.random.default_rng(3)
    ids = np.arange(4000, dtype=np.int32).reshape(-1, 1)
    labels = random.integers(0, 2, 4000).astype(np.uint8)
    model = GBDTLR((Field("ad", 4000),), trees=1, depth=1)
    rates = trees.ClickRates(model, Part(ids, labels, None, None))
    assert np.ptp(rates.out_of_fold(step=1)) < 1e-6 + np.ptp([labels[i::4].mean() for i in range(4)])
    assert rates.numbers()[labels == 1].min() > rates.numbers()[labels == 0].max()


def test_a_missing_number_is_beyond_all_others() -> None:
    log, _ = a_log(400)
    numbers = trees.ClickRates(GBDTLR(FIELDS, trees=1, depth=1), log.parts["train"]).numbers()
    assert numbers[50] == min(NUMBERS) - 1
    np.testing.assert_allclose(numbers[51:62], NUMBERS[1:])
