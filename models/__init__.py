"""Published CTR models in torch.nn: ids in, logits out. They know no schema, log, loss or graph."""

from __future__ import annotations

from torch import nn

from models.afn import AFN
from models.apg import (
    APGDCN,
    APGDCNV2,
    APGDIFM,
    APGDNN,
    APGPNN,
    APGAutoInt,
    APGDeepFM,
    APGDeepFwFM,
    APGFiBiNET,
    APGWideDeep,
    APGXDeepFM,
)
from models.autoint import AutoInt
from models.bst import BST
from models.dcn import DCN
from models.dcn_v2 import DCNV2
from models.dcn_v3 import DCNV3
from models.deep_crossing import DeepCrossing
from models.deep_fwfm import DeepFwFM
from models.deepfm import DeepFM
from models.dien import DIEN
from models.difm import DIFM
from models.din import DIN
from models.dlrm import DLRM
from models.dnn import DNN
from models.dynint_da import DynIntDA
from models.dynint_dgp import DynIntDGP
from models.dynint_dwp import DynIntDWP
from models.eulernet import EulerNet
from models.fibinet import FiBiNET
from models.final import FINAL
from models.final_mlp import FinalMLP
from models.fm import FM
from models.fwfm import FwFM
from models.gbdt_lr import GBDTLR
from models.gdcn import GDCN
from models.lr import LR
from models.masknet import MaskNet
from models.mmoe import MMoE
from models.nfm import NFM
from models.pnn import PNN
from models.star import STAR
from models.wide_deep import WideDeep
from models.xdeepfm import XDeepFM
from models.xdeepint import XDeepInt

MODELS: dict[str, type[nn.Module]] = {
    "lr": LR,
    "fm": FM,
    "fwfm": FwFM,
    "gbdt_lr": GBDTLR,
    "dnn": DNN,
    "wide_deep": WideDeep,
    "deep_crossing": DeepCrossing,
    "nfm": NFM,
    "deepfm": DeepFM,
    "deep_fwfm": DeepFwFM,
    "pnn": PNN,
    "dcn": DCN,
    "dcn_v2": DCNV2,
    "gdcn": GDCN,
    "dcn_v3": DCNV3,
    "xdeepfm": XDeepFM,
    "autoint": AutoInt,
    "afn": AFN,
    "fibinet": FiBiNET,
    "difm": DIFM,
    "dlrm": DLRM,
    "masknet": MaskNet,
    "final_mlp": FinalMLP,
    "final": FINAL,
    "eulernet": EulerNet,
    "xdeepint": XDeepInt,
    "dynint_da": DynIntDA,
    "dynint_dgp": DynIntDGP,
    "dynint_dwp": DynIntDWP,
    "din": DIN,
    "dien": DIEN,
    "bst": BST,
    "mmoe": MMoE,
    "star": STAR,
    "apg_dnn": APGDNN,
    "apg_wide_deep": APGWideDeep,
    "apg_deepfm": APGDeepFM,
    "apg_deep_fwfm": APGDeepFwFM,
    "apg_pnn": APGPNN,
    "apg_dcn": APGDCN,
    "apg_dcn_v2": APGDCNV2,
    "apg_xdeepfm": APGXDeepFM,
    "apg_autoint": APGAutoInt,
    "apg_fibinet": APGFiBiNET,
    "apg_difm": APGDIFM,
}
