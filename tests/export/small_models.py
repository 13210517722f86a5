"""Small models of every kind, with and without sequences, and their graphs."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from export.graph.onnx import export_onnx
from export.graph.quantize import quantize_int8
from models import MODELS
from models.fields import Field

SINGLE = tuple(Field(f"f{number}", cardinality) for number, cardinality in enumerate((50, 7, 120, 3, 31)))
WITH_SEQUENCES = (Field("history", 40, width=4), *SINGLE[:3], Field("tags", 15, width=2), SINGLE[3])
OPTIONS: dict[str, dict[str, Any]] = {
    "lr": {},
    "fwfm": {"dim": 5},
    "deep_fwfm": {"dim": 14, "hidden_units": (64, 57, 44), "pairs": [(0, 2), (1, 2), (1, 4)]},
}
KINDS = [(name, kind) for name in OPTIONS for kind in ("single", "sequences")]


@dataclass(frozen=True)
class Exported:
    """A model, its graphs and ids that it can score."""

    model: nn.Module
    columns: int
    float32: bytes
    int8: bytes
    ids: NDArray[np.int32]


def make_model(name: str, fields: tuple[Field, ...], **options: Any) -> nn.Module:
    """A model with weights large enough for logits to differ."""
    torch.manual_seed(7)
    model = MODELS[name](fields, **options)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model.eval()


def make_ids(fields: tuple[Field, ...], rows: int) -> NDArray[np.int32]:
    """Ids of all kinds, padding among them."""
    random = np.random.default_rng(3)
    columns = [random.integers(0, field.cardinality, rows) for field in fields for _ in range(field.width)]
    ids = np.stack(columns, axis=1).astype(np.int32)
    ids[::5, : fields[0].width] = 0  # a sequence without any element
    return ids


@functools.cache
def small_export(name: str, kind: str) -> Exported:
    """A model of OPTIONS and its graphs, made once a process."""
    fields = SINGLE if kind == "single" else WITH_SEQUENCES
    model, ids = make_model(name, fields, **OPTIONS[name]), make_ids(fields, 1100)
    float32 = export_onnx(model, ids.shape[1])
    int8 = quantize_int8(float32, ids[:300])
    assert int8 is not None
    return Exported(model, ids.shape[1], float32, int8, ids)
