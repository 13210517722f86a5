"""DCN-V2: cross layers with a matrix (full, of low rank, or a mixture of low-rank ones) and a perceptron.

Reference: Wang et al., "DCN V2: Improved Deep & Cross Network and Practical Lessons for Web-scale Learning to
Rank Systems", WWW 2021, eq. 1 to 4 and fig. 1 (stacked, parallel). The paper tunes depth, widths and rank for
each log and has no defaults: these are ours. Departs from common implementations (DeepCTR, FuxiCTR) in the
mixture's gates: each layer has gates of its own, with a bias; there all layers share them, without one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from models.embedding import FeaturesEmbedding
from models.fields import Field
from models.hyperparameters import check_choice, check_count
from models.layers import MLP
from models.low_rank import check_rank, linear_map

Structure = Literal["stacked", "parallel"]


class LowRankExperts(nn.Module):
    """The sum over experts i of G_i(x) (U_i tanh(C_i tanh(V_i^T x)) + b), the factor of x_0 in eq. 3 and 4.

    G is a softmax, so the weights of the common bias b sum to 1, and all U_i are computed as one matrix.
    """

    def __init__(self, width: int, rank: int, experts: int) -> None:
        super().__init__()
        check_rank(rank, width)
        self.experts, self.rank = experts, rank
        self.down = nn.Linear(width, experts * rank, bias=False)  # V
        self.middle = nn.Parameter(torch.empty(experts, rank, rank))  # C, each transposed
        self.up = nn.Linear(experts * rank, width)  # U and b
        self.gate = nn.Linear(width, experts)  # G
        nn.init.uniform_(self.middle, -(rank**-0.5), rank**-0.5)

    def forward(self, inputs: Tensor) -> Tensor:
        """inputs [batch, width] -> [batch, width]."""
        low = torch.tanh(self.down(inputs)).view(-1, self.experts, self.rank)
        low = torch.tanh(low.transpose(0, 1) @ self.middle).transpose(0, 1)  # [batch, experts, rank]
        gates = self.gate(inputs).softmax(dim=1).unsqueeze(2)  # [batch, experts, 1]
        mixed: Tensor = self.up((gates * low).flatten(1))
        return mixed


class CrossNetwork(nn.Module):
    """Layers x_{l+1} = x_0 * f(x_l) + x_l, where f(x) is W x + b (eq. 1), U V^T x + b (eq. 2) or experts."""

    def __init__(self, width: int, cross_layers: int, rank: int | None, experts: int) -> None:
        super().__init__()
        check_count("cross_layers", cross_layers, 1, "a stack needs a layer")
        check_count("experts", experts, 1, "1 means no mixture")
        if rank is None and experts > 1:
            raise ValueError(
                f"'experts' must be 1 without a rank (got {experts!r}); set 'rank': experts are of low rank"
            )
        self.layers = nn.ModuleList(_crossing(width, rank, experts) for _ in range(cross_layers))

    def forward(self, inputs: Tensor) -> Tensor:
        """inputs x_0 [batch, width] -> x_L [batch, width]."""
        crossed = inputs
        for layer in self.layers:
            crossed = inputs * layer(crossed) + crossed
        return crossed


class CrossesAndPerceptron(nn.Module):
    """Stacked: perceptron(crosses(x_0)). Parallel: w . crosses(x_0) + perceptron(x_0).

    `cross` makes the network of crosses for a width: [batch, width] -> [batch, width].
    """

    def __init__(
        self,
        fields: Sequence[Field],
        dim: int,
        cross: Callable[[int], nn.Module],
        hidden_units: Sequence[int],
        dropout: float,
        structure: Structure,
    ) -> None:
        super().__init__()
        check_choice("structure", structure, get_args(Structure), "the paper has these two")
        self.fields = tuple(fields)
        width = len(fields) * dim
        self.embedding = FeaturesEmbedding(fields, dim)
        self.cross = cross(width)
        self.mlp = MLP(width, hidden_units, dropout)
        self.output = nn.Linear(width, 1, bias=False) if structure == "parallel" else None
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, ids: Tensor) -> Tensor:
        """ids [batch, columns] -> logits [batch]."""
        inputs = self.embedding(ids).flatten(1)  # [batch, n_fields * dim]
        crossed = self.cross(inputs)
        if self.output is None:
            stacked: Tensor = self.bias + self.mlp(crossed)
            return stacked
        parallel: Tensor = self.bias + self.output(crossed).squeeze(1) + self.mlp(inputs)
        return parallel


class DCNV2(CrossesAndPerceptron):
    """A cross network, stacked under a perceptron or parallel to it."""

    def __init__(
        self,
        fields: Sequence[Field],
        dim: int = 10,
        hidden_units: Sequence[int] = (400, 400, 400),
        dropout: float = 0.5,
        cross_layers: int = 3,
        rank: int | None = None,
        experts: int = 1,
        structure: Structure = "stacked",
    ) -> None:
        def cross(width: int) -> CrossNetwork:
            return CrossNetwork(width, cross_layers, rank, experts)

        super().__init__(fields, dim, cross, hidden_units, dropout, structure)


def _crossing(width: int, rank: int | None, experts: int) -> nn.Module:
    if rank is None or experts == 1:
        return linear_map(width, width, rank)
    return LowRankExperts(width, rank, experts)
