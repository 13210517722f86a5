"""Two layouts of fields, random ids, and models with weights far from their initial values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from models.fields import Field
from models.layers import BatchNorm

PLAIN = (Field("site", 5), Field("hour", 3), Field("device", 4), Field("ad", 6, role="candidate"))
SEQUENCES = (Field("site", 5), Field("history", 7, width=3), Field("tags", 3, width=2), Field("hour", 4))
LAYOUTS = (PLAIN, SEQUENCES)

Model = TypeVar("Model", bound=nn.Module)


def some_ids(fields: Sequence[Field], rows: int, seed: int = 0) -> Tensor:
    """int32 ids [rows, columns] of all kinds, including padding between elements of a sequence."""
    generator = torch.Generator().manual_seed(seed)
    per_column = [field.cardinality for field in fields for _ in range(field.width)]
    ids = [torch.randint(0, size, (rows,), generator=generator) for size in per_column]
    return torch.stack(ids, dim=1).int()


def randomized(model: Model, seed: int = 0, scale: float = 0.5) -> Model:
    """The model in evaluation mode with normal random weights in place of initial zeros and ones."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
    return model.eval()


def with_statistics(model: Model) -> Model:
    """In evaluation mode, with weights and batch statistics far from their initial values."""
    model = randomized(model)
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, BatchNorm):
            module.running_mean.copy_(torch.randn(module.running_mean.shape, generator=generator))
            module.running_var.copy_(torch.rand(module.running_var.shape, generator=generator) + 0.2)
    return model
