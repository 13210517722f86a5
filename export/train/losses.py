"""Losses: functions of the logits and labels of a batch, and of what a teacher says. They know no model.

logits [batch], labels [batch] of 0.0 and 1.0 -> a scalar, the mean over the batch. `export.train.prior`
corrects the bias that a loss gives to probabilities.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from export.train.config import TrainConfig

Loss = Callable[[Tensor, Tensor], Tensor]


class TaughtLoss(Protocol):
    """A loss of logits, labels and the logits that teachers say; `hard` is the one without teachers."""

    def __call__(
        self, hard: Loss, logits: Tensor, labels: Tensor, taught: Tensor, *, alpha: float, temperature: float
    ) -> Tensor: ...


def bce(logits: Tensor, labels: Tensor) -> Tensor:
    """Binary cross-entropy, DeepLight eq. 1: the only loss here whose optimum is the click probability."""
    return F.binary_cross_entropy_with_logits(logits, labels)


def weighted_bce(logits: Tensor, labels: Tensor, click_weight: float) -> Tensor:
    """Cross-entropy in which a click counts `click_weight` times. The mean is over rows, not over weights."""
    weight = torch.as_tensor(click_weight, dtype=logits.dtype, device=logits.device)
    return F.binary_cross_entropy_with_logits(logits, labels, pos_weight=weight)


def focal(logits: Tensor, labels: Tensor, gamma: float, alpha: float) -> Tensor:
    """-alpha_t (1 - p_t)^gamma ln p_t: rows that are predicted well count little.

    Reference: Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, eq. 5.
    """
    right = logits * (2 * labels - 1)  # the logit of p_t, the probability of the observed label
    alphas = alpha * labels + (1 - alpha) * (1 - labels)
    # (1 - p_t)^gamma as an exponential: its gradient stays finite where p_t rounds to 1.
    return (alphas * torch.exp(-gamma * F.softplus(right)) * F.softplus(-right)).mean()


def calibration_aware(
    logits: Tensor, labels: Tensor, weight: float, mean: Callable[[Tensor], Tensor] = torch.mean
) -> Tensor:
    """Cross-entropy + weight (mean prediction - mean label)^2, with means over the whole batch.

    `mean` averages over the batch, of which this process may hold a share (`Ranks.mean`).
    """
    gap = mean(torch.sigmoid(logits) - labels)
    return bce(logits, labels) + weight * gap.square()


def soft(logits: Tensor, taught: Tensor, temperature: float) -> Tensor:
    """T^2 KL(sigmoid(t / T) || sigmoid(s / T)) of a student's logits s and a teacher's t, both [batch].

    Its gradient in s is T (sigmoid(s / T) - sigmoid(t / T)). Without the factor T^2 it would shrink with the
    square of T, and a temperature would change how much the teacher counts; with it, it goes to (s - t) / 4
    as T grows. Reference: Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", 2015,
    section 2, whose softmax over the two classes (0, z) is the sigmoid of z.
    """
    student, teacher = logits / temperature, taught / temperature
    divergence = torch.sigmoid(teacher) * (teacher - student) + F.softplus(student) - F.softplus(teacher)
    return temperature**2 * divergence.mean()


def distilled(
    hard: Loss, logits: Tensor, labels: Tensor, taught: Tensor, *, alpha: float, temperature: float
) -> Tensor:
    """(1 - alpha) hard(logits, labels) + alpha soft(logits, taught): `alpha` is what the teacher counts."""
    return (1 - alpha) * hard(logits, labels) + alpha * soft(logits, taught, temperature)


def loss_of(config: TrainConfig, mean: Callable[[Tensor], Tensor] = torch.mean) -> Loss:
    """The loss that the config names, with its parameters."""
    if config.loss == "weighted-bce":
        return lambda logits, labels: weighted_bce(logits, labels, config.click_weight)
    if config.loss == "focal":
        return lambda logits, labels: focal(logits, labels, config.focal_gamma, config.focal_alpha)
    if config.loss == "calibration-aware":
        return lambda logits, labels: calibration_aware(logits, labels, config.calibration_weight, mean)
    return bce
