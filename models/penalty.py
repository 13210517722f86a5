"""Models that minimise more than the label's loss. It knows neither what they add nor who adds it up."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class Penalized(nn.Module):
    """A model whose `penalty`, set by every forward pass in training, is one weighted term of the loss.

    It is None in a fresh model, after a pass in evaluation, and in a copy: it holds a graph of gradients,
    which neither copy.deepcopy nor pickle takes.
    """

    def __init__(self) -> None:
        super().__init__()
        self.penalty: Tensor | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "penalty": None}
