"""DeepFwFM: FwFM and a perceptron on the same embeddings.

Reference: Deng et al., "DeepLight: Deep Lightweight Feature Interactions for Accelerating CTR Predictions in
Ad Serving", WSDM 2021, eq. 5 and 6; defaults as in its section 5.1.4. Departs from the authors' code in R,
symmetric by construction (there both triangles are learned and their sum is pruned), and in dropout, which
follows each hidden layer only (there the perceptron's input has it too).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.embedding import FeaturesEmbedding
from models.fields import Field
from models.layers import MLP, FieldLinear, FieldPairs


class DeepFwFM(nn.Module):
    """FwFM(e) + MLP(e); a compacted one has fewer pairs, narrower hidden layers and smaller cardinalities."""

    def __init__(
        self,
        fields: Sequence[Field],
        dim: int = 10,
        hidden_units: Sequence[int] = (400, 400, 400),
        dropout: float = 0.5,
        pairs: Sequence[tuple[int, int]] | None = None,
    ) -> None:
        super().__init__()
        self.fields = tuple(fields)
        self.embedding = FeaturesEmbedding(fields, dim)
        self.linear = FieldLinear(len(fields), dim)
        self.pairs = FieldPairs(len(fields), pairs)
        self.mlp = MLP(len(fields) * dim, hidden_units, dropout)
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, ids: Tensor) -> Tensor:
        """ids [batch, columns] -> logits [batch]."""
        embeddings = self.embedding(ids)  # [batch, n_fields, dim]
        shallow = self.linear(embeddings) + self.pairs(embeddings)
        logits: Tensor = self.bias + shallow + self.mlp(embeddings.flatten(1))
        return logits
