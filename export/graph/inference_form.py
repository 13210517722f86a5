"""The function of LR, FwFM and DeepFwFM in the operators that ONNX Runtime runs fastest, ready for export.

It knows the parts these models share (embedding, linear, pairs, mlp, bias), not ONNX, INT8 or training.

- FwFM is `(E' U + V) * E'` with E' = E transposed: one small matrix product a row, linear term included. This
  is faster than gathering the pairs, unless few are left, and than a Kronecker product.
- Every sum over a row is a product with a constant matrix here, and in other models after `exact_sums`.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor, nn

from models.deep_fwfm import DeepFwFM
from models.embedding import FeaturesEmbedding
from models.fields import PADDING_ID, Field, column_offsets
from models.fwfm import FwFM
from models.layers import MLP, Dropout, FieldLinear, FieldPairs
from models.lr import LR

PARTS: dict[type[nn.Module], dict[str, type[nn.Module]]] = {
    LR: {"embedding": FeaturesEmbedding},
    FwFM: {"embedding": FeaturesEmbedding, "linear": FieldLinear, "pairs": FieldPairs},
    DeepFwFM: {"embedding": FeaturesEmbedding, "linear": FieldLinear, "pairs": FieldPairs, "mlp": MLP},
}


class InferenceForm(nn.Module):
    """A model of embedding [+ linear and pairs] [+ mlp] + bias, for inference only.

    table [rows, dim], offsets [columns], pooling [n_fields, columns] (with sequences), pair_matrix [n_fields,
    n_fields], field_vectors [dim, n_fields], or row_weights [n_fields * dim, 1] where there are no pairs.
    The parameters are copies; the source model is not changed.
    """

    offsets: Tensor
    pooling: Tensor
    always_present: Tensor
    ones: Tensor

    @staticmethod
    def supports(model: nn.Module) -> bool:
        """Whether a model is one of these classes and has only parts that are rewritten here."""
        parts = {name: type(part) for name, part in model.named_children()}
        fields: tuple[Field, ...] = getattr(model, "fields", ())
        return (
            PARTS.get(type(model)) == parts
            and {name for name, _ in model.named_parameters(recurse=False)} == {"bias"}
            and all(field.storage == "full" and field.pooling == "mean" for field in fields)
            and all(
                type(part) in (nn.Embedding, nn.Linear, nn.ModuleList, Dropout, *parts.values())
                for part in model.modules()
                if part is not model
            )
        )

    def __init__(self, model: nn.Module, ids_dtype: torch.dtype = torch.int32) -> None:
        super().__init__()
        parts: Any = model
        fields: tuple[Field, ...] = tuple(parts.fields)
        linear: FieldLinear | None = getattr(model, "linear", None)
        pairs: FieldPairs | None = getattr(model, "pairs", None)
        mlp: MLP | None = getattr(model, "mlp", None)
        self.table = _frozen(parts.embedding.table.weight)
        self.register_buffer("offsets", torch.tensor(column_offsets(fields), dtype=ids_dtype))
        self.n_fields, self.dim = len(fields), self.table.shape[1]
        self.has_pairs, self.has_mlp = pairs is not None, mlp is not None
        self.has_sequences = any(field.width > 1 for field in fields)
        if self.has_sequences:
            self.register_buffer("pooling", _pooling_matrix(fields))
            self.register_buffer("always_present", torch.tensor(_column_is_single(fields)))
        vectors = torch.ones(self.n_fields, self.dim) if linear is None else linear.weight
        if pairs is not None:
            self.pair_matrix = _frozen(_upper_triangle(pairs.matrix(), fields))
            self.field_vectors = _frozen(vectors.T)
            self.register_buffer("ones", torch.ones(self.n_fields * self.dim, 1))
        else:
            self.row_weights = _frozen(vectors.reshape(-1, 1))
        self.bias = _frozen(parts.bias.reshape(1))
        if mlp is not None:
            self.hidden = nn.ModuleList(_copy_linear(layer) for layer in mlp.hidden)
            self.output = _copy_linear(mlp.output)
            self.output.bias.add_(self.bias)
        self.eval()

    def forward(self, ids: Tensor) -> Tensor:
        """ids [batch, columns] -> logits [batch]."""
        embeddings = self._embed(ids)  # [batch, n_fields, dim]
        flat = embeddings.reshape(-1, self.n_fields * self.dim)
        logits = self._mlp(flat) if self.has_mlp else self.bias  # [batch, 1]
        if self.has_pairs:
            by_dim = embeddings.transpose(1, 2)  # [batch, dim, n_fields]
            terms = (by_dim @ self.pair_matrix + self.field_vectors) * by_dim
            flat, weights = terms.reshape(-1, self.n_fields * self.dim), self.ones
        else:
            weights = self.row_weights
        return torch.addmm(logits, flat, weights).reshape(-1)

    def _mlp(self, inputs: Tensor) -> Tensor:
        """[batch, n_fields * dim] -> [batch, 1]."""
        for layer in self.hidden:
            inputs = torch.relu(layer(inputs))
        logits: Tensor = self.output(inputs)
        return logits

    def _embed(self, ids: Tensor) -> Tensor:
        """ids [batch, columns] -> [batch, n_fields, dim]; a sequence is the mean over its ids != 0."""
        rows = nn.functional.embedding(ids + self.offsets, self.table)  # [batch, columns, dim]
        if not self.has_sequences:
            return rows
        present = (self.always_present | (ids != PADDING_ID)).to(rows.dtype)  # [batch, columns]
        totals = self.pooling @ (rows * present.unsqueeze(2))  # [batch, n_fields, dim]
        counts = (present @ self.pooling.T).clamp(min=1.0)  # [batch, n_fields]
        return totals / counts.unsqueeze(2)


def _frozen(values: Tensor) -> nn.Parameter:
    return nn.Parameter(values.detach().to("cpu", torch.float32).clone().contiguous(), requires_grad=False)


def _upper_triangle(matrix: Tensor, fields: tuple[Field, ...]) -> Tensor:
    """Each pair of a symmetric matrix once: [i, j] for i before j, in an order with context fields first.

    So the terms of context fields depend on the request only, and a shared-context graph computes them once.
    """
    candidate = torch.tensor([field.role == "candidate" for field in fields])
    rank = torch.argsort(torch.argsort(candidate.int(), stable=True))
    return matrix * (rank[:, None] < rank[None, :])


def _copy_linear(layer: nn.Module) -> nn.Linear:
    source: Any = layer
    copy = nn.Linear(source.in_features, source.out_features, device="meta")  # draws no random numbers
    copy.weight, copy.bias = _frozen(source.weight), _frozen(source.bias)
    return copy


def _column_is_single(fields: tuple[Field, ...]) -> list[bool]:
    return [field.width == 1 for field in fields for _ in range(field.width)]


def _pooling_matrix(fields: tuple[Field, ...]) -> Tensor:
    """[n_fields, columns], 1 where the column belongs to the field."""
    matrix = torch.zeros(len(fields), sum(field.width for field in fields))
    ends = itertools.accumulate(field.width for field in fields)
    for row, (field, end) in enumerate(zip(fields, ends, strict=True)):
        matrix[row, end - field.width : end] = 1.0
    return matrix
