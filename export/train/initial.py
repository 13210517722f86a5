"""The final bias of a new model: it starts at the log-odds of the training part's click rate.

It knows where a model keeps that bias, and no log.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from export.train.config import TrainConfig
from export.train.prior import uncorrected_logit


@torch.no_grad()
def start_at_click_rate(model: nn.Module, rows: int, clicks: int, config: TrainConfig) -> None:
    """Sets the model's final bias so that a row about which nothing is known gets the log's click rate.

    `rows` and `clicks` are those of the training part. What the loss and the sampling of non-clicks do to the
    odds is part of the bias, as it becomes part of the logits. With the intercept in the bias, no weight of
    an id carries it, and an id that training never meets takes nothing of it away.
    """
    log_odds = math.log((clicks + 0.5) / (rows - clicks + 0.5))  # finite without clicks, too
    final_bias(model).fill_(uncorrected_logit(log_odds, config))


def final_bias(model: nn.Module) -> Tensor:
    """The scalar that a model adds to every logit: its `bias`, or the bias of its perceptron's output."""
    found: Any = model
    bias: Tensor = found.bias if hasattr(model, "bias") else found.mlp.output.bias
    return bias
