"""Published CTR models in torch.nn: ids in, logits out. They know of no schema, log, loss or graph."""

from __future__ import annotations

from torch import nn

from models.deep_fwfm import DeepFwFM
from models.fwfm import FwFM
from models.lr import LR

MODELS: dict[str, type[nn.Module]] = {"lr": LR, "fwfm": FwFM, "deep_fwfm": DeepFwFM}
