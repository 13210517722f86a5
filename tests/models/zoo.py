"""Every model of MODELS on every layout of fields that it can take, small enough for tests."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from models import MODELS
from models.fields import Field

LAYOUTS: dict[str, tuple[Field, ...]] = {
    "plain": (
        Field("site", 11),
        Field("hour", 5, values=(0.0, 0.0, -1.2, 0.1, 1.1)),
        Field("device", 7),
        Field("ad", 9, role="candidate"),
    ),
    "sequences": (
        Field("site", 11),
        Field("history", 9, width=3, same_values_as="ad"),
        Field("tags", 6, width=2),
        Field("ad", 9, role="candidate"),
    ),
}
NEEDS_SEQUENCES = {"din", "dien"}
CASES = tuple(
    (name, layout)
    for name in MODELS
    for layout in LAYOUTS
    if layout == "sequences" or name not in NEEDS_SEQUENCES
)
CASE_NAMES = tuple("-".join(case) for case in CASES)


def small(name: str, fields: tuple[Field, ...], seed: int = 0, **hyperparameters: Any) -> nn.Module:
    """A model with narrow layers, where it has layers: the tests need no 400 neurons."""
    if "hidden_units" in inspect.signature(MODELS[name]).parameters:
        hyperparameters = {"hidden_units": (32, 16), **hyperparameters}
    torch.manual_seed(seed)
    return MODELS[name](fields, **hyperparameters)


def some_ids(fields: tuple[Field, ...], rows: int, seed: int = 0) -> Tensor:
    """int32 ids [rows, columns] of all kinds, padding between elements of a sequence among them."""
    generator = torch.Generator().manual_seed(seed)
    per_column = [field.cardinality for field in fields for _ in range(field.width)]
    ids = [torch.randint(0, size, (rows,), generator=generator) for size in per_column]
    return torch.stack(ids, dim=1).int()
