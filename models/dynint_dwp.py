"""DynInt-DWP: xDeepInt with dynamic weighted parameters, matrices W weighted for each row.

Reference: Yan & Li, "DynInt: Dynamic Interaction Modeling for Large-scale Click-Through Rate Prediction",
DLP-KDD 2022, eq. 6, 9, 10 and 12, sections 3.3.2, 3.5.2 and 3.6.1. The weighting matrix G is not stored: a
batch holds 2 latent_rank vectors per row and layer. Departs from it in the constant that is added to the
vectors, 1 / sqrt(K), so that G starts near 1 (the paper's 1 / K starts it near 1 / K), and in eq. 12's sum
over rows, which is a mean, as in the loss.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.embedding import FeaturesEmbedding
from models.fields import Field
from models.hyperparameters import check_at_least, check_count
from models.low_rank import init_xavier, linear_map
from models.penalty import Penalized
from models.polynomial_interaction import FieldOutput, InstanceNetwork, check_depth, crossed, overlap


class WeightedInteraction(nn.Module):
    """Eq. 6 by way of eq. 10: X_l = X_{l-1} o (sum over p of diag(u_p) W diag(v_p) X_0) + X_{l-1}."""

    def __init__(
        self, parts: int, in_features: int, latent_rank: int, reduction_ratio: float, rank: int | None
    ) -> None:
        super().__init__()
        self.parts, self.rank = parts, latent_rank
        self.mixing = linear_map(parts, parts, rank, bias=False)  # its weight is W_{l-1}
        init_xavier(self.mixing)
        self.generator = InstanceNetwork(in_features, 2 * latent_rank * parts, reduction_ratio)

    def weights(self, embeddings: Tensor) -> tuple[Tensor, Tensor]:
        """embeddings [batch, n_fields, dim] -> all u_p and all v_p of eq. 9, each [batch, rank, parts]."""
        generated = self.generator(embeddings) + self.rank**-0.5
        left, right = generated.reshape(-1, 2 * self.rank, self.parts).chunk(2, dim=1)
        return left, right

    def forward(self, x: Tensor, x0: Tensor, embeddings: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """x and x0 [batch, depth, parts], embeddings [batch, n_fields, dim] -> X_l, like x, and all u, v."""
        left, right = self.weights(embeddings)
        factors = x.new_ones(())  # for the X_{l-1} that is added
        for u, v in zip(left.chunk(self.rank, dim=1), right.chunk(self.rank, dim=1), strict=True):
            factors = factors + u * self.mixing(x0 * v)  # u and v [batch, 1, parts]
        return x * factors, (left, right)


class DynIntDWP(Penalized):
    """xDeepInt with WeightedInteraction for its PIN layers; `rank` is that of the matrices W."""

    def __init__(
        self,
        fields: Sequence[Field],
        dim: int = 16,
        layers: int = 3,
        sub_spaces: int = 4,
        latent_rank: int = 2,
        reduction_ratio: float = 8.0,
        orthogonal_rate: float = 1e-4,
        rank: int | None = None,
    ) -> None:
        super().__init__()
        check_depth(layers, dim, sub_spaces)
        check_count("latent_rank", latent_rank, 1, "it is the rank of the weighting matrices")
        check_at_least("reduction_ratio", reduction_ratio, 1, "it divides the width of X_0")
        check_at_least("orthogonal_rate", orthogonal_rate, 0, "it is the weight of the penalty in the loss")
        self.fields, self.sub_spaces, self.orthogonal_rate = tuple(fields), sub_spaces, orthogonal_rate
        self.embedding = FeaturesEmbedding(fields, dim)
        sizes = len(fields) * sub_spaces, len(fields) * dim, latent_rank
        self.layers = nn.ModuleList(WeightedInteraction(*sizes, reduction_ratio, rank) for _ in range(layers))
        self.output = FieldOutput(len(fields), sub_spaces)
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, ids: Tensor) -> Tensor:
        """ids [batch, columns] -> logits [batch]. In training `penalty` becomes the second term of eq. 12."""
        embeddings = self.embedding(ids)  # [batch, n_fields, dim]
        x = x0 = crossed(embeddings, self.sub_spaces)  # [batch, depth, parts]
        overlaps = torch.zeros_like(self.bias)
        for layer in self.layers:
            x, (left, right) = layer(x, x0, embeddings)
            if self.training:
                overlaps = overlaps + overlap(left) + overlap(right)
        self.penalty = self.orthogonal_rate * overlaps if self.training else None
        logits: Tensor = self.bias + self.output(x)
        return logits
