"""APG: any deep model with hidden layers whose weights are generated for each row.

Reference: Yan et al., "APG: Adaptive Parameter Generation Network for Click-Through Rate Prediction", NeurIPS
2022. Defaults are its own (section 4, appendix B.3): all of APG (v5), self-wise, a generator of a single
layer, K and P from its grids; dim and hidden_units are the backbone's. The hidden layers of every MLP of the
backbone become adaptive; output layers and all other parts do not change. adaptive_layers.py and
apg_conditions.py state the departures from the paper.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from models.adaptive_layers import Adaptation, AdaptiveLinear, Version
from models.apg_conditions import Aggregation, ConditioningEmbedding, Conditions, Stage, forward_pass
from models.autoint import AutoInt
from models.dcn import DCN
from models.dcn_v2 import DCNV2
from models.deep_fwfm import DeepFwFM
from models.deepfm import DeepFM
from models.difm import DIFM
from models.dnn import DNN
from models.fibinet import FiBiNET
from models.fields import Field
from models.layers import MLP
from models.pnn import PNN
from models.wide_deep import WideDeep
from models.xdeepfm import XDeepFM


class APG(nn.Module):
    """A base class that makes the hidden layers of the backbone that follows it among the bases adaptive.

    version           v1 basic, v2 low-rank, v3 decomposed, v4 shared U and V, v5 over-parameterised
    adaptive_rank     K, for all layers or one per layer
    inner_width       P, for v5: costs a little in training and is folded for inference
    generator_units   widths of the generators' hidden layers
    condition_fields  none: self-wise; one: group-wise; several: mix-wise
    aggregation       with several fields: concatenation, mean or attention
    aggregate_at      with several fields: the `input` of the generator, or its `output`

    The backbone's hyperparameters follow.
    """

    def __init_subclass__(cls, **options: Any) -> None:
        """Sets the constructor's signature: fields, APG's hyperparameters, then the backbone's."""
        super().__init_subclass__(**options)
        own = inspect.signature(APG.__init__).parameters
        of_backbone = inspect.signature(_backbone_of(cls).__init__).parameters
        fields, *others = [parameter for name, parameter in of_backbone.items() if name != "self"]
        adaptive = [parameter for parameter in own.values() if parameter.kind is parameter.KEYWORD_ONLY]
        clashing = {parameter.name for parameter in adaptive} & of_backbone.keys()
        if clashing:
            raise TypeError(
                f"the hyperparameters of {cls.__name__}'s backbone must differ from APG's "
                f"(got {', '.join(map(repr, sorted(clashing)))} twice); rename one"
            )
        cls.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [fields, *adaptive, *(parameter.replace(kind=parameter.KEYWORD_ONLY) for parameter in others)]
        )

    def __init__(
        self,
        fields: Sequence[Field],
        *,
        version: Version = "v5",
        adaptive_rank: int | Sequence[int] = 8,
        inner_width: int = 64,
        generator_units: Sequence[int] = (),
        condition_fields: str | Sequence[str] = (),
        aggregation: Aggregation = "attention",
        aggregate_at: Stage = "input",
        **of_backbone: Any,
    ) -> None:
        super().__init__(fields, **of_backbone)
        how = Adaptation(version, 1, inner_width, generator_units, aggregation=aggregation)
        backbone: Any = self  # for access to the backbone's attributes
        if condition_fields:
            names = [condition_fields] if isinstance(condition_fields, str) else list(condition_fields)
            conditions = Conditions(backbone.embedding, names, aggregate_at, aggregation)
            backbone.embedding = ConditioningEmbedding(backbone.embedding, conditions)
            how = replace(how, condition_size=conditions.size, conditions=conditions.separate)
        perceptrons = [module for module in self.modules() if isinstance(module, MLP)]
        if not any(len(perceptron.hidden) for perceptron in perceptrons):
            raise ValueError("'hidden_units' must be at least one (got none); APG adapts the hidden layers")
        for perceptron in perceptrons:
            plain: list[Any] = list(perceptron.hidden)
            ranks = _rank_of_each(adaptive_rank, len(plain))
            perceptron.hidden = nn.ModuleList(
                AdaptiveLinear(layer.in_features, layer.out_features, replace(how, rank=rank))
                for layer, rank in zip(plain, ranks, strict=True)
            )

    def forward(self, ids: Tensor) -> Tensor:
        """ids [batch, columns] -> logits [batch]."""
        with forward_pass():
            logits: Tensor = super().forward(ids)
            return logits


def _backbone_of(cls: type[nn.Module]) -> type[nn.Module]:
    """The class that follows APG in the method resolution order."""
    order = cls.__mro__
    return order[order.index(APG) + 1]


def _rank_of_each(rank: int | Sequence[int], layers: int) -> list[int]:
    ranks = list(rank) if isinstance(rank, Sequence) else [rank] * layers
    if len(ranks) != layers:
        raise ValueError(
            f"'adaptive_rank' must be one number, or one for each of {layers} hidden layers (got {rank!r})"
        )
    return ranks


class APGDNN(APG, DNN):
    """DNN with adaptive hidden layers."""


class APGWideDeep(APG, WideDeep):
    """Wide & Deep with adaptive hidden layers."""


class APGDeepFM(APG, DeepFM):
    """DeepFM with adaptive hidden layers."""


class APGDeepFwFM(APG, DeepFwFM):
    """DeepFwFM with adaptive hidden layers."""


class APGPNN(APG, PNN):
    """PNN with adaptive hidden layers."""


class APGDCN(APG, DCN):
    """DCN with adaptive hidden layers."""


class APGDCNV2(APG, DCNV2):
    """DCN-V2 with adaptive hidden layers."""


class APGXDeepFM(APG, XDeepFM):
    """xDeepFM with adaptive hidden layers."""


class APGAutoInt(APG, AutoInt):
    """AutoInt+ with adaptive hidden layers."""


class APGFiBiNET(APG, FiBiNET):
    """FiBiNET with adaptive hidden layers."""


class APGDIFM(APG, DIFM):
    """DIFM with adaptive hidden layers."""
