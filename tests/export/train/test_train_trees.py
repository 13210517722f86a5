"""Boosted trees: the library's, in the number that held-out rows need, without leaking rare ids' labels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier

from export.data.encoded import Part
from export.judge.metrics import auc
from export.train import trees
from export.train.choices import TrainChoice
from export.train.loop import predict_logits, train
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


def test_some_rows_of_a_log_with_a_pattern_have_its_click_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every fifth row of pages of five is its click."""
    log, _ = a_log(20_000)
    parts = {
        name: Part(part.ids, (np.arange(len(part)) % 5 == 0).astype(np.uint8), None, None)
        for name, part in log.parts.items()
    }
    train = parts["train"]
    model = GBDTLR(FIELDS, trees=2, depth=2)
    rates = trees.ClickRates(model, train, trees.folds_of(train, 0))
    rows, labels = rates.out_of_fold(step=5)
    assert len(rows) == len(labels) == 3_000
    assert labels.mean() == pytest.approx(0.2, abs=0.03)
    monkeypatch.setattr(trees, "MOST_ROWS", 3_000)
    trees.fit_trees(model, MemoryLog(parts), seed=0, report=lambda _: None)


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
    part = Part(ids, labels, None, None)
    rates = trees.ClickRates(model, part, trees.folds_of(part, seed=0))
    assert np.ptp(rates.out_of_fold(step=1)[0]) == 0.0  # each is the part's average
    assert rates.numbers()[labels == 1].min() > rates.numbers()[labels == 0].max()


def test_the_regression_adds_what_ids_say_beside_the_trees() -> None:
    """Each site has an effect of its own; one stump can only part them in two."""
    log, _ = a_log()
    model = GBDTLR(FIELDS, trees=1, depth=1)
    trees.fit_trees(model, log, seed=0, report=lambda _: None)
    held_out, leaves = log.parts["validation"], model.leaf_weights.clone()
    before = auc(held_out.labels, predict_logits(model, held_out.ids))
    result = train(model, log, TrainChoice(threads=1).config(4500, model="gbdt_lr"), report=lambda _: None)
    assert result.best is not None
    assert result.best.auc > before + 0.05
    assert torch.equal(model.leaf_weights, leaves)


def test_a_missing_number_is_beyond_all_others() -> None:
    log, _ = a_log(400)
    part = log.parts["train"]
    numbers = trees.ClickRates(GBDTLR(FIELDS, trees=1, depth=1), part, trees.folds_of(part, 0)).numbers()
    assert numbers[50] == min(NUMBERS) - 1
    np.testing.assert_allclose(numbers[51:62], NUMBERS[1:])


def test_folds_follow_one_another_whatever_pattern_the_rows_have() -> None:
    """One click and four non-clicks, again and again: each fold has the log's click rate."""
    labels = np.tile(np.array([1, 0, 0, 0, 0], np.uint8), 400)
    folds = trees.folds_of(Part(np.zeros((2000, 1), np.int32), labels, None, None), seed=0)
    assert (np.diff(folds.astype(np.int64)) >= 0).all()
    assert [labels[folds == fold].mean() for fold in range(4)] == [0.2] * 4


def test_folds_of_rows_sorted_by_label_are_drawn_by_chance() -> None:
    labels = np.repeat(np.array([1, 0], np.uint8), [500, 1500])
    folds = trees.folds_of(Part(np.zeros((2000, 1), np.int32), labels, None, None), seed=0)
    for fold in range(4):
        assert abs(labels[folds == fold].mean() - 0.25) < 0.08


def test_an_ads_click_rate_is_not_that_of_the_histories_with_it() -> None:
    """Ad 3 is never clicked; every row has it in the history, and half of them are clicked."""
    fields = (Field("history", 6, width=2, same_values_as="ad"), Field("ad", 6))
    ad = np.tile(np.array([3, 4], np.int32), 500)
    ids = np.stack([np.full(1000, 3, np.int32), np.zeros(1000, np.int32), ad], axis=1)
    part = Part(ids, (ad == 4).astype(np.uint8), None, None)
    numbers = trees.ClickRates(GBDTLR(fields, trees=1, depth=1), part, trees.folds_of(part, 0)).numbers()
    history, own = numbers[:6], numbers[6:]
    assert history[3] == pytest.approx(0.5)
    assert own[3] < 0.05
    assert own[4] > 0.95
