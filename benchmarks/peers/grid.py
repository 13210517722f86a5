"""The settings that compete, the same for Bidlight's models and for FuxiCTR's. It knows neither."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

BATCHES_AN_EPOCH: Final = 50


@dataclass(frozen=True)
class Shape:
    """What all models of a table share: the length of an embedding, the hidden layers, rows a step."""

    dim: int
    hidden_units: tuple[int, ...]
    batch_size: int


@dataclass(frozen=True)
class GridPoint:
    """Adam's step size, the L2 penalty's weight on embeddings, and dropout, None without a perceptron."""

    rate: float
    l2: float
    dropout: float | None = None


_DEEP = (GridPoint(1e-3, 1e-3, 0.5), GridPoint(1e-3, 1e-2, 0.0), GridPoint(1e-3, 1e-2, 0.5))

# Three points each, where FuxiCTR's models were best in grids of six on two logs.
GRIDS: Final[dict[str, tuple[GridPoint, ...]]] = {
    "lr": (GridPoint(1e-2, 1e-5), GridPoint(1e-2, 1e-4), GridPoint(1e-2, 1e-3)),
    "fm": (GridPoint(5e-3, 1e-4), GridPoint(5e-3, 1e-3), GridPoint(5e-3, 1e-2)),
    "fwfm": (GridPoint(1e-3, 1e-3), GridPoint(5e-3, 1e-4), GridPoint(5e-3, 1e-3)),
    "deepfm": _DEEP,
    "deep_fwfm": _DEEP,
    "dcn_v2": _DEEP,
}


def shared_batch(rows: int) -> int:
    """Rows a step for a training part of this many rows: the power of two that gives 50 steps or more."""
    return 1 << (max(1, min(4096, rows // BATCHES_AN_EPOCH)).bit_length() - 1)
