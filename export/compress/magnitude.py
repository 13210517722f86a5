"""Sets the smallest weights to zero: an exact share, or about that share much faster.

It knows neither models nor schedules.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

SAMPLE = 1 << 18
"""Weights sampled to estimate a threshold; the standard error of the share below it is 0.1 points."""
SAMPLED_FROM = 1 << 20
"""From this number of weights the threshold is estimated, because exact masks are slow."""


@torch.no_grad()
def largest_mask(weights: Sequence[Tensor], rate: float) -> list[Tensor]:
    """Masks of all but the smallest share `rate`, with one threshold: bool tensors of the weights' shapes.

    Exactly round(rate * number of weights) entries are False, but at least one is True. Of the weights tied
    at the threshold (often zeros) evenly spaced ones are masked, so that no end of a table is preferred.
    """
    sizes = [weight.numel() for weight in weights]
    count = min(round(rate * sum(sizes)), sum(sizes) - 1)
    if count <= 0:
        return [torch.ones_like(weight, dtype=torch.bool) for weight in weights]
    magnitudes = torch.cat([weight.flatten() for weight in weights]).abs_()
    threshold = _kth_smallest(magnitudes, count)
    kept = magnitudes >= threshold
    ties = (magnitudes == threshold).nonzero().flatten()
    surplus = count - (len(kept) - int(kept.count_nonzero()))
    kept[ties[torch.arange(surplus, device=kept.device) * len(ties) // surplus]] = False
    return [part.view_as(weight) for part, weight in zip(torch.split(kept, sizes), weights, strict=True)]


@torch.no_grad()
def zero_smallest(weights: Sequence[Tensor], rate: float, random: torch.Generator) -> None:
    """Sets the smallest share `rate` of the weights to zero in place; about that share of very many."""
    if sum(weight.numel() for weight in weights) < SAMPLED_FROM:
        for weight, kept in zip(weights, largest_mask(weights, rate), strict=True):
            apply_mask(weight, kept)
        return
    total = sum(weight.numel() for weight in weights)
    sample = []
    for weight in weights:
        picks = torch.randint(weight.numel(), (max(1, SAMPLE * weight.numel() // total),), generator=random)
        sample.append(weight.flatten()[picks.to(weight.device)].abs())
    magnitudes = torch.cat(sample)
    threshold = float(_kth_smallest(magnitudes, max(1, round(rate * len(magnitudes)))))
    # hardshrink also zeroes weights equal to its threshold, so all ties would be zeroed.
    below = float(np.nextafter(np.float32(threshold), np.float32(0.0)))
    for weight in weights:
        # Chunks that fit the cache are many times faster than one call.
        for chunk in torch.split(weight.view(-1), SAMPLE):
            chunk.copy_(F.hardshrink(chunk, below))


@torch.no_grad()
def apply_mask(weight: Tensor, kept: Tensor) -> None:
    """Sets to zero in place what is not `kept` (bool, of the weight's shape)."""
    if weight.device.type == "cpu":
        values = weight.numpy()  # numpy multiplies floats by booleans faster than torch
        np.multiply(values, kept.numpy(), out=values)
    else:
        weight.mul_(kept)


def _kth_smallest(magnitudes: Tensor, k: int) -> Tensor:
    """The k-th smallest value (from 1) of a flat tensor, 0-dimensional."""
    if magnitudes.device.type == "cpu":  # numpy is many times faster than torch here
        return torch.as_tensor(np.partition(magnitudes.numpy(), k - 1)[k - 1])
    return magnitudes.kthvalue(k).values
