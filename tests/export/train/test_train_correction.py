"""Models trained with weights or on sampled rows are biased, and calibrated with their sidecar."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from export.data.encoded import Part
from export.data.synthetic import SyntheticConfig
from export.data.synthetic_file import write_synthetic_log
from export.judge.metrics import pcoc, sigmoid
from export.stages.calibrate import calibrate
from export.stages.calibration_methods import METHODS
from export.stages.calibrator_fit import fit_calibrator, in_log_distribution
from export.stages.fit_schema import fit_schema
from export.stages.plan import GraphPlan, LogPlan
from export.stages.quantize import quantize
from export.stages.to_onnx import to_onnx
from export.stages.train import train as train_stage
from export.stages.work import Work
from export.train.config import TrainConfig
from export.train.loop import predict_logits, train
from models import FwFM
from models.fields import Field
from service.bundle.calibration import Calibrator
from tests.export.memory_log import MemoryLog

FIELDS = (Field("site", 30), Field("ad", 30), Field("hour", 8))
CONFIG = TrainConfig(
    epochs=3, batch_size=256, learning_rate=0.02, warmup_steps=0, embedding_l2=0.0, threads=1, patience=None
)
ROWS = {"train": 40_000, "validation": 5_000, "calibration": 15_000, "test": 40_000}


@pytest.fixture(scope="module")
def log() -> MemoryLog:
    """A click in seven rows, with odds that are products of one factor per field."""
    draw = np.random.default_rng(0)
    effects = [draw.normal(0, 0.7, field.cardinality) for field in FIELDS]
    parts = {}
    for name, rows in ROWS.items():
        ids = np.stack([draw.integers(0, field.cardinality, rows) for field in FIELDS], axis=1).astype(
            np.int32
        )
        odds = np.exp(-2.2 + sum(effect[ids[:, i]] for i, effect in enumerate(effects)))
        labels = (draw.random(rows) < odds / (1 + odds)).astype(np.uint8)
        parts[name] = Part(ids=ids, labels=labels, true_pctr=None, timestamps=None)
    return MemoryLog(parts)


def test_the_loss_without_bias_needs_no_correction(log: MemoryLog) -> None:
    judged = Judged(log, replace(CONFIG, loss="calibration-aware"))
    assert judged.raw == pytest.approx(1.0, abs=0.05)
    assert judged.calibrator(METHODS).method == "identity"


@pytest.mark.parametrize(
    ("choice", "least_raw"),
    [
        ({"loss": "weighted-bce", "click_weight": 5.0}, 2.0),
        ({"negative_rate": 0.2}, 2.0),
        ({"loss": "weighted-bce", "click_weight": 3.0, "negative_rate": 0.5}, 2.0),
        ({"loss": "focal", "focal_alpha": 0.5}, 1.3),
    ],
)
def test_the_bias_of_training_is_corrected(log: MemoryLog, choice: dict[str, Any], least_raw: float) -> None:
    judged = Judged(log, replace(CONFIG, **choice))
    assert judged.raw > least_raw
    # The known correction, without a fit; then the best of all methods.
    assert judged.pcoc(judged.calibrator(["identity"])) == pytest.approx(1.0, abs=0.1)
    fitted = judged.calibrator(METHODS)
    assert judged.pcoc(fitted) == pytest.approx(1.0, abs=0.05)
    assert fitted.before.pcoc > least_raw
    assert fitted.after.pcoc == pytest.approx(1.0, abs=0.05)


class Judged:
    """A model trained on a log, and the deviation of its predicted clicks from those of the test part."""

    def __init__(self, log: MemoryLog, config: TrainConfig, most_logloss: float = 0.43) -> None:
        torch.manual_seed(0)
        self.model = FwFM(FIELDS, dim=4)
        result = train(self.model, log, config, report=lambda _: None)
        assert result.best is not None
        assert result.best.logloss < most_logloss  # evaluated by its probabilities, not by its raw logits
        self.config, self.held_out, self.test = config, log.parts["calibration"], log.parts["test"]
        self.logits = predict_logits(self.model, self.test.ids)
        self.raw = pcoc(self.test.labels, sigmoid(self.logits))

    def calibrator(self, methods: Iterable[str], sampling_rate: float = 1.0) -> Calibrator:
        return fit_calibrator(
            predict_logits(self.model, self.held_out.ids),
            self.held_out.labels,
            variant="float32",
            graph_sha256="0" * 64,
            training=self.config,
            sampling_rate=sampling_rate,
            methods=list(methods),
        )

    def pcoc(self, calibrator: Calibrator, test: Part | None = None) -> float:
        rows = test or self.test
        return pcoc(rows.labels, calibrator.pctr(predict_logits(self.model, rows.ids)))


def test_a_sampled_log_is_corrected_as_well(log: MemoryLog) -> None:
    """The log lacks half of its non-clicks, and training samples a fifth of the rest."""
    draw = np.random.default_rng(1)
    parts = {}
    for name, part in log.parts.items():
        kept = (part.labels == 1) | (draw.random(len(part)) < 0.5)
        parts[name] = Part(ids=part.ids[kept], labels=part.labels[kept], true_pctr=None, timestamps=None)
    judged = Judged(MemoryLog(parts), replace(CONFIG, negative_rate=0.2), most_logloss=0.53)
    calibrator = judged.calibrator(["identity"], sampling_rate=0.5)
    assert (calibrator.method, calibrator.slope, calibrator.sampling_rate) == ("platt", 1.0, 0.5)
    assert calibrator.intercept == pytest.approx(math.log(0.2))
    assert judged.pcoc(calibrator, log.parts["test"]) == pytest.approx(1.0, abs=0.1)
    assert judged.pcoc(in_log_distribution(calibrator)) == pytest.approx(1.0, abs=0.1)


def test_the_stages_pass_on_how_a_model_was_trained(tmp_path: Path) -> None:
    config = SyntheticConfig(
        rows=6_000, features=200, numeric_fields=1, categorical_fields=3, candidate_fields=1, ctr=0.2
    )
    schema = write_synthetic_log(config, tmp_path / "clicks.csv", report=str)
    work = Work(tmp_path / "work")
    plan = LogPlan(data=tmp_path / "clicks.csv", schema=str(schema), split=(0.6, 0.1, 0.2, 0.1))
    fit_schema(work, plan, say=str)
    training = TrainConfig(
        epochs=1, batch_size=128, loss="weighted-bce", click_weight=5.0, negative_rate=0.5, threads=1
    )
    record = train_stage(work, "lr", {}, training, say=str)
    assert record.seconds_an_epoch is not None
    assert record.seconds_an_epoch > 0
    to_onnx(work, say=str)
    quantize(work, GraphPlan(quantization_rows=512), say=str)
    for calibrator in calibrate(work, sampling_rate=1.0, methods=["identity"], say=str).values():
        assert (calibrator.method, calibrator.slope) == ("platt", 1.0)
        assert calibrator.intercept == pytest.approx(math.log(0.5 / 5))
