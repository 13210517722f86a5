"""A table's gradient as the distinct rows that a batch looked up and their summed gradients."""

from __future__ import annotations

import torch
from torch import Tensor


def rows_and_gradients(gradient: Tensor) -> tuple[Tensor, Tensor]:
    """The distinct rows of a gradient, sorted [touched], and their summed gradients [touched, dim].

    A dense gradient [rows, dim] touches every row.
    """
    if not gradient.is_sparse:
        return torch.arange(len(gradient), device=gradient.device), gradient
    # Not coalesce(), which is slower; this sums in batch order, so every run gives the same bits.
    rows, position = torch.unique(gradient._indices()[0], return_inverse=True)
    values = gradient._values()
    return rows, values.new_zeros(len(rows), *values.shape[1:]).index_add_(0, position, values)
