"""Layers with weights for each domain, and the field that says which domain a row belongs to.

They know nothing of MMoE or STAR, which are made of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.fields import Field, column_slices, find_field


def domain_field(fields: Sequence[Field], name: str | None) -> Field:
    """The field whose ids are the domains: the named one, else the context field with the fewest ids.

    Missing and unseen values are domains as others are. Raises ValueError where no field will do.
    """
    if name is not None:
        field = fields[find_field(fields, name, "domain")]
        if field.width > 1:
            raise ValueError(
                f"'domain' must be a field with one id (got '{name}' with {field.width}); name another"
            )
        return field
    fitting = [
        field for field in fields if field.role == "context" and field.width == 1 and field.cardinality > 1
    ]
    if not fitting:
        raise ValueError(
            "'domain' must be a field (got None, and no context field of width 1 has two ids); name one"
        )
    return min(fitting, key=lambda field: field.cardinality)


def domain_column(fields: Sequence[Field], field: Field) -> int:
    """The column of ids that holds the domain."""
    start: int = column_slices(fields)[field.name].start
    return start


class DomainLinear(nn.Module):
    """An affine map for each domain; a row passes the one of its own domain.

    All maps are applied and each row's own result is kept: one matrix product of n_domains * in * out
    multiplications a row, and [batch, n_domains * out] numbers on the way. To gather each row's own matrix
    would take in * out multiplications but [batch, in * out] numbers. So this is meant for some tens of
    domains; with thousands both ways are dear, and so are the weights.
    """

    def __init__(self, n_domains: int, in_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__()
        self.out_features = out_features
        self.maps = nn.Linear(in_features, n_domains * out_features, bias)  # by domain, then by output

    def forward(self, inputs: Tensor, places: Tensor) -> Tensor:
        """inputs [batch, in_features], places [batch] of domain_places -> [batch, out_features]."""
        results: Tensor = self.maps(inputs)
        return results.reshape(-1, self.out_features).index_select(0, places)


def domain_places(domains: Tensor, n_domains: int) -> Tensor:
    """domains [batch] -> where each row's own result stands among [batch * n_domains] results, [batch].

    Numbered once, they serve all layers of a model. Gathering rows so takes 30 us, GatherElements along the
    domains 130, a product with one-hot rows 190 (ONNX Runtime, one thread, 1024 rows, 7 domains, 64 outputs).
    """
    rows = torch.arange(domains.shape[0], dtype=domains.dtype, device=domains.device)
    return rows * n_domains + domains
