"""A copy of a model for inference: parts that exist for training are multiplied out. It knows no ONNX."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn


def inference_copy(model: nn.Module) -> nn.Module:
    """A copy in evaluation form in which every part that offers `folded()` is what that gives.

    The model may be one such part itself. An outer part folds before its inner ones, since it may be made of
    what they still are. The model is left as it was.
    """
    folded = _fold(copy.deepcopy(model))
    for parameter in folded.parameters():
        parameter.requires_grad_(False)
    return folded.to("cpu", torch.float32).eval()


def _fold(part: nn.Module) -> nn.Module:
    if hasattr(part, "folded"):
        fold: Any = part.folded
        with torch.no_grad():
            part = fold()
    for name, child in part.named_children():
        setattr(part, name, _fold(child))
    return part
