"""Saved tensors are counted once a storage, without those that were there before."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.saved_tensors import saved_bytes


def test_what_a_forward_pass_saves() -> None:
    layer, rows = nn.Linear(6, 5), torch.randn(10, 6)
    known = (rows, *layer.parameters())

    def forward(kept: Tensor = rows) -> Tensor:
        hidden = F.relu(layer(kept))  # ReLU keeps its output, which the product then keeps twice
        return hidden * hidden

    assert saved_bytes(forward, known) == 10 * 5 * 4
    assert saved_bytes(forward, layer.parameters()) == 10 * 5 * 4 + 10 * 6 * 4
    with torch.no_grad():
        assert saved_bytes(forward, ()) == 0
