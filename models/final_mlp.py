"""FinalMLP: two perceptrons, each on embeddings weighed by gates of its own, and a bilinear fusion of both.

Reference: Mao et al., "FinalMLP: An Enhanced Two-Stream MLP Model for CTR Prediction", AAAI 2023: gates of a
perceptron each (feature selection), and fusion with heads. As in the authors' code (FuxiCTR), a gate that
reads no fields reads a learned vector, so it is the same for all rows. Departs from that code in the fields
that a gate reads, whose embeddings are the model's own and not further ones; widths and dropout are ours.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.embedding import EMBEDDING_STD, FeaturesEmbedding
from models.fields import Field, find_field
from models.hyperparameters import check_count, check_widths
from models.layers import MLP, start_before_relu


class FeatureGate(nn.Module):
    """2 sigmoid(W_2 relu(W_1 x + b_1) + b_2), one weight for each number of each embedding.

    x is the embeddings of the fields at `positions`; with none it is a learned vector.
    """

    chosen: Tensor

    def __init__(self, n_fields: int, dim: int, positions: Sequence[int], hidden: int) -> None:
        super().__init__()
        self.constant = None if positions else nn.Parameter(torch.randn(1, dim) * EMBEDDING_STD)
        self.register_buffer("chosen", torch.tensor(positions, dtype=torch.int64), persistent=False)
        self.hidden = nn.Linear(max(1, len(positions)) * dim, hidden)
        start_before_relu(self.hidden)
        self.output = nn.Linear(hidden, n_fields * dim)

    def forward(self, embeddings: Tensor) -> Tensor:
        """embeddings [batch, n_fields, dim] -> [batch, n_fields * dim], of one row if they read no field."""
        if self.constant is None:
            context = embeddings.index_select(1, self.chosen).flatten(1)
        else:
            context = self.constant
        return 2.0 * torch.sigmoid(self.output(torch.relu(self.hidden(context))))


class BilinearFusion(nn.Module):
    """w_1 . x + w_2 . y + the sum over heads h of x_h^T W_h y_h, where x and y are cut into heads."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        check_count("heads", heads, 1, "1 means that all pairs of neurons meet")
        if width % heads:
            raise ValueError(
                f"'heads' must divide 'stream_units', here {width} (got {heads!r}); change one of the two"
            )
        self.first, self.second = (nn.Linear(width, 1, bias=False) for _ in range(2))
        share = width // heads
        self.heads = nn.ModuleList(
            nn.Linear(share, share, bias=False) for _ in range(heads)
        )  # W_h transposed

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """first x and second y, both [batch, width] -> logits [batch]."""
        parts = first.chunk(len(self.heads), dim=1)
        mapped = torch.cat([head(part) for head, part in zip(self.heads, parts, strict=True)], dim=1)
        linear: Tensor = self.first(first) + self.second(second)
        return linear.squeeze(1) + (mapped * second).sum(dim=1)


class FinalMLP(nn.Module):
    """fusion(MLP(g_1 * e), MLP(g_2 * e)), with gates g_1 and g_2.

    hidden_units  the hidden layers of the first perceptron, below a last one of width stream_units
    second_units  those of the second one; streams that differ learn different things
    first_gate    the fields that the gate of the first perceptron reads, such as those of the user
    second_gate   that of the second one, such as those of the ad
    gate_units    the width of the hidden layer of each gate
    """

    def __init__(
        self,
        fields: Sequence[Field],
        dim: int = 10,
        hidden_units: Sequence[int] = (400, 400),
        dropout: float = 0.5,
        second_units: Sequence[int] = (400,),
        stream_units: int = 400,
        heads: int = 1,
        first_gate: str | Sequence[str] = (),
        second_gate: str | Sequence[str] = (),
        gate_units: int = 64,
    ) -> None:
        super().__init__()
        check_widths("hidden_units", hidden_units, "they are the hidden layers of the first perceptron")
        check_widths("second_units", second_units, "they are the hidden layers of the second perceptron")
        check_count("stream_units", stream_units, 1, "it is the width of the last layer of each perceptron")
        check_count("gate_units", gate_units, 1, "it is the width of the hidden layer of each gate")
        self.fields = tuple(fields)
        self.embedding = FeaturesEmbedding(fields, dim)
        chosen = _positions(fields, first_gate, "first_gate"), _positions(fields, second_gate, "second_gate")
        self.gates = nn.ModuleList(FeatureGate(len(fields), dim, each, gate_units) for each in chosen)
        width = len(fields) * dim
        self.mlp = MLP(width, (*hidden_units, stream_units), dropout, outputs=None)
        self.second = MLP(width, (*second_units, stream_units), dropout, outputs=None)
        self.fusion = BilinearFusion(stream_units, heads)
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, ids: Tensor) -> Tensor:
        """ids [batch, columns] -> logits [batch]."""
        embeddings = self.embedding(ids)  # [batch, n_fields, dim]
        first, second = (gate(embeddings) * embeddings.flatten(1) for gate in self.gates)
        logits: Tensor = self.bias + self.fusion(self.mlp(first), self.second(second))
        return logits


def _positions(fields: Sequence[Field], names: str | Sequence[str], argument: str) -> list[int]:
    several = [names] if isinstance(names, str) else names
    return [find_field(fields, name, argument) for name in several]
