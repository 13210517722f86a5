"""A copy of a model for inference, with parts that exist for training folded. It knows no ONNX."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn


def inference_copy(model: nn.Module) -> nn.Module:
    """A float32 copy in evaluation mode; every part with a method `folded()` is replaced by its result.

    The model itself may be such a part. An outer part is folded before its inner parts, because folding may
    read them. The model is not changed.
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
