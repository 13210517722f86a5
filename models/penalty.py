"""Models with a penalty in addition to the label's loss. It knows neither penalties nor training loops."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class Penalized(nn.Module):
    """A model whose `penalty`, set by every forward pass in training, is a weighted term of the loss.

    It is None in a new model, after a forward pass in evaluation mode, and in a copy, because copy.deepcopy
    and pickle cannot copy its autograd graph.
    """

    def __init__(self) -> None:
        super().__init__()
        self.penalty: Tensor | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "penalty": None}
