"""GDCN: DCN-V2 with a gate on each cross layer, which lets through the crosses that matter in a row.

Reference: Wang et al., "Towards Deeper, Lighter and Interpretable Cross Network for CTR Prediction", CIKM
2023, its gated cross network in both structures, GDCN-S (stacked) and GDCN-P (parallel). The paper's other
part, dimensions chosen for each field, is left out: all embeddings of a model here have one dimension. Widths
and dropout are those of `dcn_v2`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.dcn_v2 import CrossesAndPerceptron, Structure
from models.fields import Field
from models.hyperparameters import check_count
from models.low_rank import linear_map


class GatedCrossLayer(nn.Module):
    """c_0 * (W c + b) * sigmoid(V c) + c: the cross of c_0 and c, its information gate, and c."""

    def __init__(self, width: int, rank: int | None) -> None:
        super().__init__()
        self.cross = linear_map(width, width, rank)
        self.gate = linear_map(width, width, rank, bias=False)

    def forward(self, inputs: Tensor, first: Tensor) -> Tensor:
        """inputs c and first c_0, both [batch, width] -> [batch, width]."""
        crossed: Tensor = first * self.cross(inputs) * torch.sigmoid(self.gate(inputs)) + inputs
        return crossed


class GatedCrossNetwork(nn.Module):
    """Gated cross layers one after the other; the degree grows by one with each, as in DCN-V2."""

    def __init__(self, width: int, cross_layers: int, rank: int | None) -> None:
        super().__init__()
        check_count("cross_layers", cross_layers, 1, "a stack needs a layer")
        self.layers = nn.ModuleList(GatedCrossLayer(width, rank) for _ in range(cross_layers))

    def forward(self, inputs: Tensor) -> Tensor:
        """inputs c_0 [batch, width] -> c_L [batch, width]."""
        crossed = inputs
        for layer in self.layers:
            crossed = layer(crossed, inputs)
        return crossed


class GDCN(CrossesAndPerceptron):
    """A gated cross network, stacked under a perceptron or parallel to it.

    rank  of the matrices of crosses and gates, which the paper keeps full; None: full
    """

    def __init__(
        self,
        fields: Sequence[Field],
        dim: int = 10,
        hidden_units: Sequence[int] = (400, 400, 400),
        dropout: float = 0.5,
        cross_layers: int = 3,
        structure: Structure = "stacked",
        rank: int | None = None,
    ) -> None:
        def cross(width: int) -> GatedCrossNetwork:
            return GatedCrossNetwork(width, cross_layers, rank)

        super().__init__(fields, dim, cross, hidden_units, dropout, structure)
