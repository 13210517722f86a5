"""DLRM: a bottom perceptron for numbers, inner products of all vectors, then a top perceptron.

Reference: Naumov et al., "Deep Learning Recommendation Model for Personalization and Recommendation Systems",
2019, section 2.5; layers as in the authors' Criteo benchmark (512-256-64-dim below, 512-256-1 above). Departs
from it in dim (16 there; 10 here, as in every model), in the top's dropout (none there) and for schemas
without numbers: then there is no bottom perceptron, and the top one reads the embeddings in place of its
output.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.embedding import FeaturesEmbedding
from models.fields import Field, column_slices
from models.hyperparameters import check_widths
from models.layers import MLP, InnerProducts


class Numbers(nn.Module):
    """The numbers behind the ids of numeric fields: one lookup in a table of constants."""

    columns: Tensor
    offsets: Tensor
    values: Tensor

    def __init__(self, fields: Sequence[Field]) -> None:
        super().__init__()
        numeric = [field for field in fields if _is_number(field)]
        self.out_features = len(numeric)
        values = [list(field.values or ()) for field in numeric]
        offsets = [sum(map(len, values[:position])) for position in range(len(values))]
        self.register_buffer("columns", _columns_of(fields, numeric), persistent=False)
        self.register_buffer("offsets", torch.tensor(offsets, dtype=torch.int32), persistent=False)
        flat = torch.tensor([value for of_field in values for value in of_field], dtype=torch.float32)
        self.register_buffer("values", flat.unsqueeze(1), persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        """ids [batch, columns] -> numbers [batch, n_numbers]."""
        return F.embedding(ids.index_select(1, self.columns) + self.offsets, self.values).flatten(1)


class DLRM(nn.Module):
    """MLP(x, all <t_i, t_j> with i < j): x = bottom(numbers), t = x and the embeddings of all other fields.

    A field with `values` is a number: its ids are bins, and the bottom perceptron reads the bins' values.

    hidden_units  the top perceptron's
    bottom_units  the bottom perceptron's, below a last layer of width dim
    pairs         of vectors that have an inner product, of which the first is x if there is one; None: all
    """

    columns: Tensor

    def __init__(
        self,
        fields: Sequence[Field],
        dim: int = 10,
        hidden_units: Sequence[int] = (512, 256),
        dropout: float = 0.5,
        bottom_units: Sequence[int] = (512, 256, 64),
        pairs: Sequence[tuple[int, int]] | None = None,
    ) -> None:
        super().__init__()
        check_widths("bottom_units", bottom_units, "they are the bottom perceptron's hidden layers")
        self.fields = tuple(fields)
        categorical = [field for field in fields if not _is_number(field)]
        if not categorical:
            raise ValueError(
                f"'fields' must hold one without values (got {len(fields)} numbers); 'dnn' embeds the bins"
            )
        self.register_buffer("columns", _columns_of(fields, categorical), persistent=False)
        self.embedding = FeaturesEmbedding(categorical, dim)
        self.numbers, self.bottom = None, None
        vectors, beside = len(categorical), len(categorical) * dim
        if len(categorical) < len(fields):
            self.numbers = Numbers(fields)
            self.bottom = MLP(self.numbers.out_features, (*bottom_units, dim), dropout=0.0, outputs=None)
            vectors, beside = len(categorical) + 1, dim
        self.interaction = InnerProducts(vectors, pairs)
        self.mlp = MLP(beside + self.interaction.out_features, hidden_units, dropout)
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, ids: Tensor) -> Tensor:
        """ids [batch, columns] -> logits [batch]."""
        if self.numbers is None or self.bottom is None:
            vectors = self.embedding(ids)  # [batch, n_vectors, dim]
            beside = vectors.flatten(1)
        else:
            beside = self.bottom(self.numbers(ids))  # [batch, dim]
            embeddings = self.embedding(ids.index_select(1, self.columns))
            vectors = torch.cat([beside.unsqueeze(1), embeddings], dim=1)
        logits: Tensor = self.bias + self.mlp(torch.cat([beside, self.interaction(vectors)], dim=1))
        return logits


def _is_number(field: Field) -> bool:
    """A sequence of numbers is embedded like other sequences, because a mean of numbers loses their order."""
    return field.values is not None and field.width == 1


def _columns_of(fields: Sequence[Field], chosen: Sequence[Field]) -> Tensor:
    """The columns of the chosen fields among those of all, int64."""
    slices = column_slices(fields)
    spans = [slices[field.name] for field in chosen]
    return torch.tensor([column for span in spans for column in range(span.start, span.stop)])
