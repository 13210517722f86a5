"""AutoInt: self-attention between fields; with a perceptron beside it, AutoInt+.

Reference: Song et al., "AutoInt: Automatic Feature Interaction Learning via Self-Attentive Neural Networks",
CIKM 2019, eq. 5 to 9, with its three layers of two heads of size 32. By default it is AutoInt+ with the other
models' perceptron; `hidden_units=()` gives plain AutoInt. Follows the equations where the authors' code adds
to them (ReLU on queries, keys and values, scaled scores, normalised layers).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.embedding import FeaturesEmbedding
from models.fields import Field
from models.hyperparameters import check_count
from models.layers import MLP, HeadSizes, InteractingLayer, sizes_of_layers


class AutoInt(nn.Module):
    """w . [interacting layers(e)] + perceptron(e).

    head_sizes  what each layer has in place of `heads` of `attention_dim`: for each head the length of its
                queries and of its values
    """

    def __init__(
        self,
        fields: Sequence[Field],
        dim: int = 10,
        hidden_units: Sequence[int] = (400, 400, 400),
        dropout: float = 0.5,
        attention_layers: int = 3,
        heads: int = 2,
        attention_dim: int = 32,
        head_sizes: Sequence[HeadSizes] | None = None,
    ) -> None:
        super().__init__()
        check_count("attention_layers", attention_layers, 1, "AutoInt consists of these layers")
        self.fields = tuple(fields)
        self.embedding = FeaturesEmbedding(fields, dim)
        layers: list[InteractingLayer] = []
        for sizes in sizes_of_layers(head_sizes, attention_layers):
            width = layers[-1].out_features if layers else dim
            layers.append(InteractingLayer(width, heads, attention_dim, sizes=sizes))
        self.interacting = nn.Sequential(*layers)
        self.output = nn.Linear(len(fields) * layers[-1].out_features, 1, bias=False)
        self.mlp = MLP(len(fields) * dim, hidden_units, dropout) if hidden_units else None
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, ids: Tensor) -> Tensor:
        """ids [batch, columns] -> logits [batch]."""
        embeddings = self.embedding(ids)  # [batch, n_fields, dim]
        logits: Tensor = self.bias + self.output(self.interacting(embeddings).flatten(1)).squeeze(1)
        return logits if self.mlp is None else logits + self.mlp(embeddings.flatten(1))
