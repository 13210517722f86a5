"""A new model's prediction for a row about which nothing is known is the click rate of the log."""

from __future__ import annotations

import inspect
import math
from typing import Any

import numpy as np
import pytest
import torch

from export.judge.metrics import sigmoid
from export.train.build import build_from_fields
from export.train.config import TrainConfig
from export.train.initial import final_bias, start_at_click_rate
from export.train.loop import predict_logits
from export.train.prior import corrected_logits
from models import MODELS
from models.fields import Field

FIELDS = (
    Field("site", 11),
    Field("history", 9, width=3, same_values_as="ad"),
    Field("ad", 9, role="candidate"),
)
CONFIGS = (
    TrainConfig(),
    TrainConfig(negative_rate=0.1),
    TrainConfig(loss="weighted-bce", click_weight=10.0),
    TrainConfig(loss="focal", negative_rate=0.5),
)


def small(name: str) -> torch.nn.Module:
    known = inspect.signature(MODELS[name]).parameters
    chosen: dict[str, Any] = {"hidden_units": (32, 16)}
    return build_from_fields(name, FIELDS, {key: value for key, value in chosen.items() if key in known})


@pytest.mark.parametrize("name", [name for name in MODELS if name != "gbdt_lr"])  # trees bring their bias
def test_every_model_starts_at_the_click_rate(name: str) -> None:
    model = small(name)
    random = np.random.default_rng(0)
    ids = np.stack([random.integers(0, size, 200) for size in (11, 9, 9, 9, 9)], axis=1).astype(np.int32)
    start_at_click_rate(model, rows=50_000, clicks=1_000, config=TrainConfig())
    pctr = sigmoid(predict_logits(model, ids))
    assert pctr.mean() == pytest.approx(0.02, rel=0.25)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: f"{config.loss}-{config.negative_rate}")
def test_losses_and_sampling_are_part_of_the_bias(config: TrainConfig) -> None:
    model = small("lr")
    start_at_click_rate(model, rows=50_000, clicks=1_000, config=config)
    bias = final_bias(model).detach().numpy()
    assert sigmoid(corrected_logits(bias, config)) == pytest.approx(0.02, rel=1e-3)


def test_a_log_without_clicks_has_a_finite_bias() -> None:
    model = small("fm")
    start_at_click_rate(model, rows=1_000, clicks=0, config=TrainConfig())
    assert math.isfinite(float(final_bias(model).detach()))
