"""Dice: the activation of DIN and DIEN, with a rectification point that follows the data.

Reference: Zhou et al., "Deep Interest Network for Click-Through Rate Prediction", KDD 2018, section 5.2.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Dice(nn.Module):
    """f(s) = p(s) s + (1 - p(s)) alpha s with p(s) = sigmoid((s - E[s]) / sqrt(Var[s] + eps)).

    In training E and Var are the batch's. In evaluation, and for a batch of one row, which has no variance,
    they are the running averages.
    """

    mean: Tensor
    variance: Tensor

    def __init__(self, features: int, momentum: float = 0.1, eps: float = 1e-8) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.zeros(features))
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("variance", torch.ones(features))
        self.momentum, self.eps = momentum, eps

    def forward(self, inputs: Tensor) -> Tensor:
        """inputs [..., features] -> the same shape."""
        mean, variance = self.mean, self.variance
        if self.training and inputs.numel() > inputs.shape[-1]:
            rows = inputs.flatten(0, -2)
            mean, variance = rows.mean(dim=0), rows.var(dim=0, unbiased=False)
            with torch.no_grad():
                self.mean.lerp_(mean, self.momentum)
                self.variance.lerp_(variance, self.momentum)
        share = torch.sigmoid((inputs - mean) * torch.rsqrt(variance + self.eps))
        return inputs * (share + (1.0 - share) * self.alpha)
