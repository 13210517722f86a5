"""FwFM: a factorization machine with a weight for each pair of fields.

Reference: Pan et al., "Field-weighted Factorization Machines for Click-Through Rate Prediction in Display
Advertising", WWW 2018; DeepLight eq. 6. Its linear term is <e_i, v_f> ("FiLV", field-wise, in the reference).
Departs from neither; `pairs` omits the pairs that pruning removed.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.embedding import FeaturesEmbedding
from models.fields import Field
from models.layers import FieldLinear, FieldPairs


class FwFM(nn.Module):
    """w_0 + sum of <e_i, v_f> + sum over pairs of <e_i, e_j> R_ij."""

    def __init__(
        self, fields: Sequence[Field], dim: int = 10, pairs: Sequence[tuple[int, int]] | None = None
    ) -> None:
        super().__init__()
        self.fields = tuple(fields)
        self.embedding = FeaturesEmbedding(fields, dim)
        self.linear = FieldLinear(len(fields), dim)
        self.pairs = FieldPairs(len(fields), pairs)
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, ids: Tensor) -> Tensor:
        """ids [batch, columns] -> logits [batch]."""
        embeddings = self.embedding(ids)  # [batch, n_fields, dim]
        logits: Tensor = self.bias + self.linear(embeddings) + self.pairs(embeddings)
        return logits
