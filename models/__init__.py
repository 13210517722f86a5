"""Published CTR models in torch.nn: ids in, logits out. They know of no schema, log, loss or graph."""

from __future__ import annotations

from torch import nn

from models.apg import APGDNN, APGDeepFM, APGDeepFwFM
from models.deep_fwfm import DeepFwFM
from models.deepfm import DeepFM
from models.dnn import DNN
from models.fm import FM
from models.fwfm import FwFM
from models.lr import LR

MODELS: dict[str, type[nn.Module]] = {
    "lr": LR,
    "fm": FM,
    "fwfm": FwFM,
    "dnn": DNN,
    "deepfm": DeepFM,
    "deep_fwfm": DeepFwFM,
    "apg_dnn": APGDNN,
    "apg_deepfm": APGDeepFM,
    "apg_deep_fwfm": APGDeepFwFM,
}
