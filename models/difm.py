"""DIFM: a factorization machine with field weights for each row, from attention and a perceptron.

Reference: Lu et al., "A Dual Input-aware Factorization Machine for CTR Prediction", IJCAI 2020: m = m_vec +
m_bit, its vector-wise and its bit-wise factor-estimating network. Departs from it in a bias of the factors
that starts at 1, so an untrained DIFM is an FM. Without it factors start near 0 and shrink the gradients of
everything they multiply (figures in docs/measured-training.md). Sizes are ours.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.embedding import FeaturesEmbedding, LinearTerm
from models.fields import Field
from models.layers import MLP, BiInteraction, HeadSizes, InteractingLayer, sizes_of_layers


class DIFM(nn.Module):
    """w_0 + sum of m_i w_i + sum over pairs of <m_i v_i, m_j v_j>, with factors m_i for each row.

    head_sizes  as AutoInt's, of the one layer of attention
    """

    def __init__(
        self,
        fields: Sequence[Field],
        dim: int = 10,
        hidden_units: Sequence[int] = (400, 400, 400),
        dropout: float = 0.5,
        heads: int = 2,
        attention_dim: int = 16,
        head_sizes: Sequence[HeadSizes] | None = None,
    ) -> None:
        super().__init__()
        if len(fields) < 2:
            raise ValueError(
                f"'fields' must be at least two (got {len(fields)}); the second order needs a pair"
            )
        self.fields = tuple(fields)
        self.embedding = FeaturesEmbedding(fields, dim)
        self.wide = LinearTerm(fields)
        (sizes,) = sizes_of_layers(head_sizes, 1)
        self.attention = InteractingLayer(dim, heads, attention_dim, scaled=True, sizes=sizes)
        self.vector_wise = nn.Linear(len(fields) * self.attention.out_features, len(fields), bias=False)
        self.mlp = MLP(len(fields) * dim, hidden_units, dropout, outputs=len(fields))
        nn.init.ones_(self.mlp.output.bias)
        self.interaction = BiInteraction()
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, ids: Tensor) -> Tensor:
        """ids [batch, columns] -> logits [batch]."""
        embeddings = self.embedding(ids)  # [batch, n_fields, dim]
        of_vectors = self.vector_wise(self.attention(embeddings).flatten(1))  # m_vec, [batch, n_fields]
        of_bits = self.mlp(embeddings.flatten(1))  # m_bit, [batch, n_fields]
        factors = (of_vectors + of_bits).unsqueeze(2)
        first = (self.wide.embedding(ids) * factors).sum(dim=(1, 2))
        second = self.interaction(embeddings * factors).sum(dim=1)
        logits: Tensor = self.bias + first + second
        return logits
