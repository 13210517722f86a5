"""What other libraries and Bidlight's models are fitted with, on a small log with a planted effect."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.peers import __main__ as command
from benchmarks.peers import ours, scikit
from benchmarks.peers.columns import FOLDS, PRIOR_ROWS, one_hot, tree_columns
from benchmarks.peers.contender import (
    DEFAULT,
    SCIKIT,
    TUNED,
    step_seconds,
)
from benchmarks.peers.grid import GRIDS, shared_batch
from export.data.encoded import EncodedLog, Part
from export.errors import ExportError
from export.judge.metrics import auc
from export.train.result import Evaluation, TrainResult
from tests.peer_log import SCHEMA, SHAPE

pytestmark = pytest.mark.usefixtures("same_path")


def test_one_hot_rows_have_what_the_models_read(log: EncodedLog) -> None:
    rows = one_hot(log, "test").toarray()
    ids = np.asarray(log.parts["test"].ids)
    assert rows.shape == (len(ids), 7 + 5 + 7)
    for row, (*history, price, item) in zip(rows[:50], ids[:50], strict=True):
        expected = np.zeros(19)
        elements = [element for element in history if element]
        for element in elements:
            expected[element] += 1 / len(elements)
        expected[7 + price] = expected[12 + item] = 1.0
        assert row == pytest.approx(expected)
    assert any(not row[:3].any() for row in ids)  # a history without elements was among them


def test_trees_read_ids_bins_and_click_rates_that_leave_the_own_fold_out(log: EncodedLog) -> None:
    columns, categories = tree_columns(log)
    assert categories == [2]
    train, labels = np.asarray(log.parts["train"].ids), np.asarray(log.parts["train"].labels)
    assert columns["train"][:, 1:].tolist() == train[:, 3:].tolist()

    def rate(element: int, rows: NDArray[np.bool_]) -> float:
        clicks, shown = 0.0, 0
        for column in range(3):
            of = rows & (train[:, column] == element)
            clicks, shown = clicks + labels[of].sum(), shown + of.sum()
        return float((clicks + PRIOR_ROWS * labels[rows].mean()) / (shown + PRIOR_ROWS))

    every = np.ones(len(train), bool)
    for row in range(12):
        others = np.arange(len(train)) % FOLDS != row % FOLDS
        for part, rows in (("train", others), ("test", every)):
            elements = [element for element in log.parts[part].ids[row, :3] if element]
            expected = np.mean([rate(element, rows) for element in elements]) if elements else 0.0
            assert columns[part][row, 0] == pytest.approx(expected)


@pytest.mark.parametrize("model", ["lr", "gbdt_lr"])
def test_scikit_learn_finds_a_planted_effect(log: EncodedLog, model: str) -> None:
    (found,) = scikit.contenders([model], SHAPE)
    assert (found.model, found.by) == (model, SCIKIT)
    fitted = found.fit(log, found.points[-1], 0)
    assert auc(log.parts["test"].labels, fitted.test) > 0.8


def test_models_train_by_default_and_by_a_grid(log: EncodedLog) -> None:
    default, tuned = ours.contenders(["deepfm"], SHAPE)
    assert (default.by, tuned.by) == (DEFAULT, TUNED)
    assert default.points == (tuned.points[0],)
    assert default.points[0]["training"] == {}
    assert len(tuned.points) == 1 + len(GRIDS["deepfm"])
    assert all(point["hyperparameters"]["hidden_units"] == [8, 4] for point in tuned.points)
    settings = {**tuned.points[1], "training": {"learning_rate": 0.02, "epochs": 2}}
    fitted, again = (tuned.fit(log, settings, 0) for _ in range(2))
    assert auc(log.parts["test"].labels, fitted.test) > 0.8
    assert fitted.test.tolist() == again.test.tolist()
    assert fitted.epoch_seconds is not None
    assert fitted.epoch_seconds > 0


def test_an_epoch_takes_its_steps_without_evaluations() -> None:
    judged = [Evaluation(1, step, 0.1, 0.5, 1.0, 0.4, 0.7) for step in (2, 4)]
    result = TrainResult(None, tuple(judged), 5, False, 0.0, steps_an_epoch=10)
    # Steps 2 and 4 take 1 and 3 seconds; 3 and 5 hold the evaluations before them.
    assert ours.epoch_seconds([0.0, 1.0, 101.0, 104.0, 204.0], result) == pytest.approx(20.0)
    assert step_seconds([0.0, 1.0, 2.0, 102.0, 103.0], 10) == pytest.approx(10.0)


def test_every_model_has_a_grid_that_it_takes(log: EncodedLog) -> None:
    short = {name: Part(part.ids[:80], part.labels[:80], None, None) for name, part in log.parts.items()}
    for model in command.MODELS:
        settings = ours.grid_settings(model, SHAPE)[0]
        assert ours.fit(replace(log, parts=short), settings, 0).test.shape == (80,)


def test_a_settings_file_takes_the_place_of_the_grid(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text("[fm]\ndim = 3\nlearning_rate = 0.01\n")
    by_name = {(one.model, one.by): one for one in ours.contenders(["fm", "lr"], SHAPE, settings_file=file)}
    (settings,) = by_name["fm", TUNED].points
    assert settings == {"model": "fm", "hyperparameters": {"dim": 3}, "training": {"learning_rate": 0.01}}
    assert by_name["fm", DEFAULT].points[0]["hyperparameters"] == {"dim": 4}
    assert len(by_name["lr", TUNED].points) > 1
    file.write_text("[fm]\nno_such = 3\n")
    with pytest.raises(ExportError, match="no_such"):
        ours.contenders(["fm"], SHAPE, settings_file=file)


@pytest.mark.parametrize(("rows", "batch"), [(14_001, 256), (56_000, 1024), (10, 1), (10**8, 4096)])
def test_the_shared_batch_gives_fifty_steps(rows: int, batch: int) -> None:
    assert shared_batch(rows) == batch


def needs(package: str) -> None:
    """Skips without the package."""
    command.see_installed_peers()
    if find_spec(package) is None:
        pytest.skip(f"{package} is not installed; `make peers` installs it")


def test_lightgbm_finds_a_planted_effect(log: EncodedLog) -> None:
    needs("lightgbm")
    (found,) = command.peer("lightgbm").contenders(["lr", "gbdt_lr"], SHAPE)
    fitted = found.fit(log, found.points[0], 0)
    assert auc(log.parts["test"].labels, fitted.test) > 0.8


@pytest.mark.filterwarnings("ignore")  # of FuxiCTR and what it imports
def test_fuxictr_finds_a_planted_effect(log: EncodedLog, monkeypatch: pytest.MonkeyPatch) -> None:
    needs("fuxictr")
    monkeypatch.setattr(command.peer("fuxictr"), "MOST_EPOCHS", 6)
    found = command.peer("fuxictr").contenders(command.MODELS, SHAPE)
    assert [one.model for one in found] == ["lr", "fm", "fwfm", "deepfm", "dcn_v2"]
    for one in found:
        settings = {**one.points[0], "rate": 0.02}
        fitted = one.fit(log, settings, 0)
        assert auc(log.parts["test"].labels, fitted.test) > 0.8, one.model
        assert fitted.epochs >= 1
        assert fitted.epoch_seconds is not None
        assert fitted.epoch_seconds > 0


@pytest.mark.filterwarnings("ignore")
def test_fuxictr_reads_the_fields_as_the_models_do(log: EncodedLog, tmp_path: Path) -> None:
    needs("fuxictr")
    fuxi = command.peer("fuxictr")
    import torch

    features = fuxi.feature_map(SCHEMA, 4, str(tmp_path))
    settings = {"model": "fm", "dim": 4, "rate": 0.1, "l2": 0.0}
    network = fuxi.FM(features, settings, str(tmp_path))
    tables = network.embedding.embedding_layer.embedding_layers
    history, price, item = (fuxi.feature_name(SCHEMA, name) for name in ("history", "price", "item"))
    assert tables[history] is tables[item]
    weights_of_ids = network.fm.lr_layer.embedding_layer.embedding_layer.embedding_layers
    assert weights_of_ids[history] is not weights_of_ids[item]
    for table in weights_of_ids.values():
        assert table.weight.abs().max() < 0.01
    with torch.no_grad():
        for table in {tables[item], tables[price]}:
            table.weight.normal_()
            table.weight[0] = 0
    (batch,) = fuxi.Batches(SCHEMA, log.parts["test"], 1000)
    vectors = network.embedding(network.get_inputs(batch)).detach().numpy()
    ids = np.asarray(log.parts["test"].ids)
    weights = tables[item].weight.detach().numpy()
    names = list(features.features)
    for row in range(20):
        elements = [weights[element] for element in ids[row, :3] if element]
        expected = np.mean(elements, axis=0) if elements else np.zeros(4)
        assert vectors[row, names.index(history)] == pytest.approx(expected, abs=1e-5)
        assert vectors[row, names.index(item)] == pytest.approx(weights[ids[row, 4]], abs=1e-5)
