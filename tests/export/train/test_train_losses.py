"""Losses against their formulas row by row, and the gradients that must stay finite."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from export.train.config import TrainConfig
from export.train.losses import bce, calibration_aware, focal, loss_of, weighted_bce

LOGITS = torch.tensor([-2.0, -0.3, 0.0, 0.7, 3.0, -1.1])
LABELS = torch.tensor([0.0, 1.0, 1.0, 0.0, 1.0, 0.0])


def rows() -> list[tuple[float, float]]:
    """(probability, label) of each row."""
    return [(1 / (1 + math.exp(-x)), y) for x, y in zip(LOGITS.tolist(), LABELS.tolist(), strict=True)]


def test_a_weighted_click_counts_its_weight() -> None:
    naive = sum(-5 * y * math.log(p) - (1 - y) * math.log(1 - p) for p, y in rows()) / 6
    assert weighted_bce(LOGITS, LABELS, 5.0).item() == pytest.approx(naive, rel=1e-6)
    assert weighted_bce(LOGITS, LABELS, 1.0).item() == pytest.approx(bce(LOGITS, LABELS).item())


@pytest.mark.parametrize(("gamma", "alpha"), [(2.0, 0.25), (0.5, 0.7), (0.0, 0.5)])
def test_focal_loss_is_the_papers_formula(gamma: float, alpha: float) -> None:
    naive = 0.0
    for p, y in rows():
        right, weight = (p, alpha) if y else (1 - p, 1 - alpha)
        naive -= weight * (1 - right) ** gamma * math.log(right) / 6
    assert focal(LOGITS, LABELS, gamma, alpha).item() == pytest.approx(naive, rel=1e-5)


def test_focal_loss_without_focus_is_half_the_cross_entropy() -> None:
    torch.testing.assert_close(focal(LOGITS, LABELS, 0.0, 0.5), bce(LOGITS, LABELS) / 2)


@pytest.mark.parametrize("gamma", [0.3, 1.0, 5.0])
def test_the_gradient_of_focal_loss_is_finite_where_a_row_is_sure(gamma: float) -> None:
    logits = torch.tensor([-90.0, 90.0, -90.0, 90.0], requires_grad=True)
    focal(logits, torch.tensor([0.0, 1.0, 1.0, 0.0]), gamma, 0.25).backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert logits.grad[2] < 0 < logits.grad[3]


def test_the_calibration_aware_loss_adds_the_square_of_the_batchs_gap() -> None:
    gap = sum(p - y for p, y in rows()) / 6
    found = calibration_aware(LOGITS, LABELS, 3.0)
    assert found.item() == pytest.approx(bce(LOGITS, LABELS).item() + 3 * gap**2, rel=1e-6)


def gradient_of(config: TrainConfig) -> Tensor:
    logits = LOGITS.clone().requires_grad_()
    loss_of(config)(logits, LABELS).backward()
    assert logits.grad is not None
    return logits.grad


def test_the_config_names_the_loss_and_gives_its_parameters() -> None:
    found = {
        "bce": TrainConfig(),
        "weighted-bce": TrainConfig(loss="weighted-bce", click_weight=4.0),
        "focal": TrainConfig(loss="focal", focal_gamma=1.0, focal_alpha=0.4),
        "calibration-aware": TrainConfig(loss="calibration-aware", calibration_weight=2.0),
    }
    expected = {
        "bce": bce,
        "weighted-bce": lambda logits, labels: weighted_bce(logits, labels, 4.0),
        "focal": lambda logits, labels: focal(logits, labels, 1.0, 0.4),
        "calibration-aware": lambda logits, labels: calibration_aware(logits, labels, 2.0),
    }
    for name, config in found.items():
        logits = LOGITS.clone().requires_grad_()
        expected[name](logits, LABELS).backward()  # type: ignore[operator]
        torch.testing.assert_close(gradient_of(config), logits.grad)
