"""DynInt-DA: xDeepInt with dynamic activation, layers with gates for each row.

Reference: Yan & Li, "DynInt: Dynamic Interaction Modeling for Large-scale Click-Through Rate Prediction",
DLP-KDD 2022, eq. 4 and section 3.2. The paper calls G a gating vector: here one gate for each part of
the crossed feature map, shared by the part's elements. Departs from the paper only where xDeepInt does.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.embedding import FeaturesEmbedding
from models.fields import Field
from models.hyperparameters import check_at_least
from models.low_rank import init_xavier, linear_map
from models.polynomial_interaction import FieldOutput, InstanceNetwork, check_depth, crossed


class GatedInteraction(nn.Module):
    """Eq. 4: X_l = (X_{l-1} o (W_{l-1} X_0)) o G^(i)_{l-1} + X_{l-1}, with gates in (0, 2), 1 at first."""

    def __init__(self, parts: int, in_features: int, reduction_ratio: float, rank: int | None) -> None:
        super().__init__()
        self.mixing = linear_map(parts, parts, rank, bias=False)  # its weight is W_{l-1}
        init_xavier(self.mixing)
        self.gate = InstanceNetwork(in_features, parts, reduction_ratio)

    def forward(self, x: Tensor, x0: Tensor, embeddings: Tensor) -> Tensor:
        """x and x0 [batch, depth, parts], embeddings [batch, n_fields, dim] -> X_l [batch, depth, parts]."""
        gates = 2.0 * torch.sigmoid(self.gate(embeddings))  # [batch, parts]
        interactions: Tensor = x * self.mixing(x0)
        return interactions * gates.unsqueeze(1) + x


class DynIntDA(nn.Module):
    """xDeepInt with GatedInteraction for its PIN layers; `rank` is that of the matrices W."""

    def __init__(
        self,
        fields: Sequence[Field],
        dim: int = 16,
        layers: int = 3,
        sub_spaces: int = 4,
        reduction_ratio: float = 8.0,
        rank: int | None = None,
    ) -> None:
        super().__init__()
        check_depth(layers, dim, sub_spaces)
        check_at_least("reduction_ratio", reduction_ratio, 1, "it divides the width of X_0")
        self.fields, self.sub_spaces = tuple(fields), sub_spaces
        self.embedding = FeaturesEmbedding(fields, dim)
        sizes = len(fields) * sub_spaces, len(fields) * dim
        self.layers = nn.ModuleList(GatedInteraction(*sizes, reduction_ratio, rank) for _ in range(layers))
        self.output = FieldOutput(len(fields), sub_spaces)
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, ids: Tensor) -> Tensor:
        """ids [batch, columns] -> logits [batch]."""
        embeddings = self.embedding(ids)  # [batch, n_fields, dim]
        x = x0 = crossed(embeddings, self.sub_spaces)  # [batch, depth, parts]
        for layer in self.layers:
            x = layer(x, x0, embeddings)
        logits: Tensor = self.bias + self.output(x)
        return logits
