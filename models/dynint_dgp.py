"""DynInt-DGP: xDeepInt with dynamic generated parameters, matrices W generated for each row.

Reference: Yan & Li, "DynInt: Dynamic Interaction Modeling for Large-scale Click-Through Rate Prediction",
DLP-KDD 2022, eq. 5, 7, 8 and 11, sections 3.3.1, 3.5.1 and 3.6.1. No W is stored: a batch holds kernel_size^2
dynamic values per row and layer, and two static matrices per layer. The paper models the diagonal of Sigma
and counts the memory of the whole matrix; the whole matrix is the default here, and more accurate
(docs/measured-training.md), the diagonal an option. Departs from it in the initial values: U and V have
orthonormal columns and Sigma is near the identity (the paper gives none), and in eq. 11's sum over rows,
which is a mean, as in the loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from models.embedding import FeaturesEmbedding
from models.fields import Field
from models.hyperparameters import check_at_least, check_choice, check_count
from models.penalty import Penalized
from models.polynomial_interaction import FieldOutput, InstanceNetwork, check_depth, crossed, overlap

Kernel = Literal["full", "diagonal"]


class GeneratedInteraction(nn.Module):
    """Eq. 5 by way of eq. 8: X_l = X_{l-1} o (U_{l-1} Sigma^(i)_{l-1} V^T_{l-1} X_0) + X_{l-1}.

    The rank is the lesser of kernel_size and the number of parts.
    """

    def __init__(
        self, parts: int, in_features: int, kernel_size: int, kernel: Kernel, reduction_ratio: float
    ) -> None:
        super().__init__()
        self.rank, self.kernel = min(kernel_size, parts), kernel
        self.left = nn.Parameter(torch.empty(parts, self.rank))  # U_{l-1}
        self.right = nn.Parameter(torch.empty(parts, self.rank))  # V_{l-1}
        for vectors in (self.left, self.right):
            nn.init.orthogonal_(vectors)
        identity = torch.eye(self.rank).flatten() if kernel == "full" else torch.ones(self.rank)
        self.generator = InstanceNetwork(in_features, len(identity), reduction_ratio)
        with torch.no_grad():
            self.generator.output.bias.copy_(identity)

    def kernels(self, embeddings: Tensor) -> Tensor:
        """embeddings [batch, n_fields, dim] -> Sigma^T [batch, rank, rank], or its diagonal [batch, rank]."""
        generated: Tensor = self.generator(embeddings)
        return generated.reshape(-1, self.rank, self.rank) if self.kernel == "full" else generated

    def forward(self, x: Tensor, x0: Tensor, embeddings: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """x and x0 [batch, depth, parts], embeddings [batch, n_fields, dim] -> X_l, like x, and U^T, V^T."""
        kernels, projected = self.kernels(embeddings), x0 @ self.right  # [batch, depth, rank]
        scaled = projected @ kernels if self.kernel == "full" else projected * kernels.unsqueeze(1)
        return x * (scaled @ self.left.T) + x, (self.left.T, self.right.T)


class DynIntDGP(Penalized):
    """xDeepInt with GeneratedInteraction for its PIN layers."""

    def __init__(
        self,
        fields: Sequence[Field],
        dim: int = 16,
        layers: int = 3,
        sub_spaces: int = 4,
        kernel_size: int = 16,
        kernel: Kernel = "full",
        reduction_ratio: float = 8.0,
        orthogonal_rate: float = 1e-4,
    ) -> None:
        super().__init__()
        check_depth(layers, dim, sub_spaces)
        check_count("kernel_size", kernel_size, 1, "it is the rank of the generated matrices")
        check_at_least("reduction_ratio", reduction_ratio, 1, "it divides the width of X_0")
        check_at_least("orthogonal_rate", orthogonal_rate, 0, "it is the weight of the penalty in the loss")
        check_choice("kernel", kernel, get_args(Kernel), "it says how much of Sigma is generated")
        self.fields, self.sub_spaces, self.orthogonal_rate = tuple(fields), sub_spaces, orthogonal_rate
        self.embedding = FeaturesEmbedding(fields, dim)
        sizes = len(fields) * sub_spaces, len(fields) * dim, kernel_size
        self.layers = nn.ModuleList(
            GeneratedInteraction(*sizes, kernel, reduction_ratio) for _ in range(layers)
        )
        self.output = FieldOutput(len(fields), sub_spaces)
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, ids: Tensor) -> Tensor:
        """ids [batch, columns] -> logits [batch]. In training `penalty` becomes the second term of eq. 11."""
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
