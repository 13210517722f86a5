"""The parts of xDeepInt and DynInt around their PIN layers: sub-spaces, output, instance networks.

It knows feature maps, not ids. Equation numbers are those of DynInt (Yan & Li, "DynInt: Dynamic Interaction
Modeling for Large-scale Click-Through Rate Prediction", DLP-KDD 2022).

A feature map X_l, [n_fields, dim] in the paper, is stored transposed and crossed: [batch, depth, parts] with
depth = dim / sub_spaces and parts = n_fields * sub_spaces, so W X_0 is one matrix product over a whole batch.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.hyperparameters import check_count


def crossed(embeddings: Tensor, sub_spaces: int) -> Tensor:
    """Subspace crossing, figure 2b: embeddings [batch, n_fields, dim] -> [batch, depth, parts].

    Each embedding is split into equal parts, which replace the fields: with 1 sub-space whole vectors
    interact, with `dim` sub-spaces single elements. Parts are ordered by field; the authors' code orders them
    by sub-space, which only permutes the rows and columns of W.
    """
    _, n_fields, dim = embeddings.shape
    split = embeddings.reshape(-1, n_fields, sub_spaces, dim // sub_spaces)
    return split.permute(0, 3, 1, 2).reshape(-1, dim // sub_spaces, n_fields * sub_spaces)


class FieldOutput(nn.Module):
    """The output layer, eq. 2 without its bias: a weight per field, then the sum over dim."""

    def __init__(self, n_fields: int, sub_spaces: int) -> None:
        super().__init__()
        self.n_fields, self.sub_spaces = n_fields, sub_spaces
        self.weight = nn.Parameter(torch.empty(n_fields, 1))
        nn.init.xavier_uniform_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        """x [batch, depth, parts] -> [batch]."""
        by_field = x.reshape(-1, x.shape[1], self.n_fields, self.sub_spaces)
        return (by_field * self.weight).sum(dim=(1, 2, 3))


class InstanceNetwork(nn.Module):
    """Two layers that generate the dynamic values of a row from its X_0: gates, weights or parameters.

    They pass no gradient to X_0 (sections 3.2 and 3.5). The hidden layer is narrower than X_0 by the
    reduction ratio; its biases start at zero, so with small embeddings no unit is dead for all rows.
    """

    def __init__(self, in_features: int, out_features: int, reduction_ratio: float) -> None:
        super().__init__()
        self.hidden = nn.Linear(in_features, max(1, int(in_features / reduction_ratio)))
        self.output = nn.Linear(self.hidden.out_features, out_features)
        nn.init.zeros_(self.hidden.bias)

    def forward(self, embeddings: Tensor) -> Tensor:
        """embeddings [batch, n_fields, dim], X_0 of eq. 1 -> [batch, out_features]."""
        outputs: Tensor = self.output(F.relu(self.hidden(embeddings.detach().flatten(1))))
        return outputs


def overlap(vectors: Tensor) -> Tensor:
    """The deviation of vectors from orthogonality: the sum over pairs p > q of |cosine|, as in eq. 11 and 12.

    vectors [..., rank, parts] -> a scalar, the mean over the leading axes; between 0 and rank (rank - 1) / 2.
    """
    units = F.normalize(vectors, dim=-1)
    return (units @ units.mT).tril(diagonal=-1).abs().sum(dim=(-2, -1)).mean()


def check_depth(layers: int, dim: int, sub_spaces: int) -> None:
    """Raises ValueError for invalid sizes of a stack of PIN layers."""
    check_count("layers", layers, 0, "0 is logistic regression on the embeddings")
    check_count("dim", dim, 1, "it is the length of an embedding")
    if sub_spaces < 1 or dim % sub_spaces:
        raise ValueError(
            f"'sub_spaces' must be a divisor of dim {dim} (got {sub_spaces!r}); it is how many "
            "equal parts an embedding is split into"
        )
