"""What training on alone is worth is no merit of pruning: the better of two dense models is compared with."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from export.compress.choice import PruneChoice
from export.data.encoded import open_log
from export.judge.metrics import auc, logloss
from export.stages.artifacts import read_artifacts
from export.stages.calibrate import calibrate
from export.stages.dense_twin import dense_checkpoint, twin_line
from export.stages.ladder import fitted_pctr
from export.stages.plan import GraphPlan
from export.stages.prune import prune, unpruned_line
from export.stages.quantize import quantize
from export.stages.records import Trained, Unpruned
from export.stages.to_onnx import to_onnx
from export.stages.variants import read_variants
from export.stages.work import Work
from export.train.build import build_model
from export.train.checkpoint import load_checkpoint, save_checkpoint
from export.train.loop import predict_logits

SHORT = PruneChoice(preset="high-performance", prune_epochs=0.5, finetune_epochs=0.5)


@pytest.fixture
def work(exported, tmp_path: Path) -> Work:
    """A trained model of the tiny log, for the stages after training."""
    copy = Work(tmp_path / "work")
    shutil.copytree(exported.plan.work, copy.folder)
    copy.start("prune")
    return copy


def weights_of(work: Work, name: str) -> dict[str, np.ndarray]:
    network = load_checkpoint(work.path(name), open_log(work.path("log")).schema).model
    return {key: value.numpy() for key, value in network.state_dict().items()}


def train_by(work: Work, **changes) -> None:
    """Changes the configuration that the stage train recorded."""
    trained = work.read_record("train", Trained)
    work.record("train", msgspec.structs.replace(trained, config=replace(trained.config, **changes)))


def spoil(work: Work) -> None:
    """Leaves the trained model something to gain by training on: its perceptron says the opposite."""
    network, model, hyperparameters = load_checkpoint(work.path("dense.pt"))
    with torch.no_grad():
        network.mlp.output.weight.mul_(-3.0)
    save_checkpoint(work.folder / "dense.pt", network, model, hyperparameters)


@pytest.mark.parametrize(("metric", "rate", "better"), [("logloss", 1e-2, True), ("auc", 1.0, False)])
def test_the_better_one_is_the_dense_model(work: Work, metric: str, rate: float, better: bool) -> None:
    """A model that was spoiled gains by training on, one that was not loses by steps as large as 1."""
    if better:
        spoil(work)
    train_by(work, stopping_metric=metric)
    lines: list[str] = []
    pruned = prune(work, replace(SHORT, prune_learning_rate=rate), say=lines.append)
    assert pruned is not None
    twin = pruned.twin
    assert twin is not None
    assert (twin.metric, twin.epochs, twin.better) == (metric, 1.0, better)
    assert twin_line(twin) in lines
    assert dense_checkpoint(work).name == ("twin.pt" if better else "dense.pt")
    assert work.has("twin.pt") == better
    log = open_log(work.path("log"))
    part = log.parts["validation"]
    logits = predict_logits(load_checkpoint(dense_checkpoint(work)).model, part.ids)
    pctr = fitted_pctr(logits, np.asarray(part.labels)) if metric == "logloss" else logits
    measured = {"auc": auc, "logloss": logloss}[metric](part.labels, pctr)
    assert measured == pytest.approx(twin.twin if better else twin.trained, abs=1e-12)


def test_the_step_size_is_that_of_pruning(work: Work) -> None:
    """At one near zero the twin stays as it was trained, whatever training's own was."""
    still, moving = (prune(work, replace(SHORT, prune_learning_rate=rate), say=str) for rate in (1e-9, 1e-3))
    assert still is not None
    assert moving is not None
    assert still.twin is not None
    assert moving.twin is not None
    assert still.twin.twin == pytest.approx(still.twin.trained, abs=1e-5)
    assert moving.twin.trained == still.twin.trained
    assert abs(moving.twin.twin - moving.twin.trained) > 1e-5


def test_the_twin_sees_what_the_pruned_model_sees(work: Work) -> None:
    """Rates near zero prune next to nothing: both models end with the same weights, batch by batch."""
    gentle = replace(SHORT.recipe(1), dnn=1e-9, field_matrix=0.0, embedding=0.0)
    train_by(work, evaluations_per_epoch=1, stopping_metric="auc")
    pruned = prune(work, SHORT, recipe=gentle, say=str)
    assert pruned is not None
    assert pruned.twin is not None
    assert pruned.twin.twin == pytest.approx(pruned.points[-1].validation_auc, abs=1e-9)
    assert pruned.twin.twin != pruned.twin.trained


def test_the_twin_can_be_skipped(work: Work) -> None:
    pruned = prune(work, replace(SHORT, dense_twin="skip"), say=str)
    assert pruned is not None
    assert pruned.twin is None
    assert not work.has("twin.pt")
    assert dense_checkpoint(work).name == "dense.pt"


def test_the_trained_model_stays_what_it_was_and_pruning_starts_from_it(work: Work) -> None:
    before = weights_of(work, "dense.pt")
    prune(work, SHORT, say=str)
    first = weights_of(work, "pruned.pt")
    prune(work, replace(SHORT, dense_twin="skip"), say=str)  # a stage that runs again ends as before
    for name, value in weights_of(work, "dense.pt").items():
        assert np.array_equal(value, before[name])
    for name, value in weights_of(work, "pruned.pt").items():
        assert np.array_equal(value, first[name])


def test_the_better_one_is_the_dense_graph_and_the_report_says_so(work: Work) -> None:
    spoil(work)
    pruned = prune(work, replace(SHORT, prune_learning_rate=1e-2), say=str)
    assert pruned is not None
    assert pruned.twin is not None
    to_onnx(work, say=str)
    log = open_log(work.path("log"))
    rows = log.parts["validation"]
    scores = read_variants(work, log.schema)["float32"].score(rows)
    assert scores == pytest.approx(
        predict_logits(load_checkpoint(work.path("twin.pt")).model, rows.ids), abs=1e-4
    )
    quantize(work, GraphPlan(quantization_rows=1000), say=str)
    calibrate(work, sampling_rate=1.0, methods=("identity",), say=str)
    assert twin_line(pruned.twin) in read_artifacts(work).choices


def test_a_small_log_is_not_pruned_by_default_and_that_is_recorded(work: Work) -> None:
    lines: list[str] = []
    assert prune(work, PruneChoice(), say=lines.append) is None
    (line,) = lines
    assert line.startswith("nothing is pruned by default on a log of 2,800 training rows")
    assert line == unpruned_line(work.read_record("prune", Unpruned))
    assert not work.has("twin.pt")


def test_a_model_that_gets_no_smaller_is_not_pruned_by_default_whatever_the_rows(work: Work) -> None:
    log = open_log(work.path("log"))
    network = build_model("gbdt_lr", log.schema, {"trees": 2})
    save_checkpoint(work.folder / "dense.pt", network, "gbdt_lr", {"trees": 2})
    lines: list[str] = []
    assert prune(work, PruneChoice(), say=lines.append) is None
    (line,) = lines
    assert line.startswith("nothing is pruned by default of gbdt_lr, which gets no smaller by it")
    record = work.read_record("prune", Unpruned)
    assert not record.shrinks
    assert line == unpruned_line(record)
