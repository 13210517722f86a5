"""What a step takes is counted as it is: each storage once, what was there before left out, in turns."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.step_cost import kept_bytes, median_milliseconds


def test_what_a_forward_pass_keeps() -> None:
    layer, rows = nn.Linear(6, 5), torch.randn(10, 6)
    known = (rows, *layer.parameters())

    def forward(kept: Tensor = rows) -> Tensor:
        hidden = F.relu(layer(kept))  # ReLU keeps its output, which the product then keeps twice
        return hidden * hidden

    assert kept_bytes(forward, known) == 10 * 5 * 4
    assert kept_bytes(forward, layer.parameters()) == 10 * 5 * 4 + 10 * 6 * 4
    with torch.no_grad():
        assert kept_bytes(forward, ()) == 0


def test_steps_take_turns_and_the_first_warms_up() -> None:
    called: list[str] = []
    times = {"slow": iter([90.0, 3.0, 1.0, 2.0]), "quick": iter([50.0, 0.5, 0.25, 0.75])}

    def step(name: str) -> float:
        called.append(name)
        return next(times[name])

    found = median_milliseconds({"slow": lambda: step("slow"), "quick": lambda: step("quick")}, rounds=3)
    assert found == {"slow": 2.0, "quick": 0.5}
    assert called == ["slow", "quick"] * 4
