"""Layers with separate weights for each domain, and the choice of the field that holds the domain.

They know nothing of MMoE or STAR, which use them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.fields import Field, column_slices, find_field


def domain_field(fields: Sequence[Field], name: str | None) -> Field:
    """The field whose ids are the domains: the named one, else the context field with the fewest ids.

    Missing and unseen values are domains too. Raises ValueError if no field is suitable.
    """
    if name is not None:
        field = fields[find_field(fields, name, "domain")]
        if field.width > 1:
            raise ValueError(
                f"'domain' must be a field with one id (got '{name}' with {field.width}); name another"
            )
        return field
    suitable = [
        field for field in fields if field.role == "context" and field.width == 1 and field.cardinality > 1
    ]
    if not suitable:
        raise ValueError(
            "'domain' must be a field (got None, and no context field of width 1 has two ids); name one"
        )
    return min(suitable, key=lambda field: field.cardinality)


def domain_column(fields: Sequence[Field], field: Field) -> int:
    """The column of ids that holds the domain."""
    start: int = column_slices(fields)[field.name].start
    return start


class DomainLinear(nn.Module):
    """An affine map for each domain; a row uses the map of its domain.

    All maps are applied and each row keeps its own domain's result: one matrix product with n_domains * in *
    out multiplications per row and an intermediate [batch, n_domains * out]. Gathering each row's matrix
    would take in * out multiplications but an intermediate [batch, in * out]. So this suits some tens of
    domains; with thousands both ways are expensive, and so are the weights.
    """

    def __init__(self, n_domains: int, in_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__()
        self.out_features = out_features
        self.maps = nn.Linear(in_features, n_domains * out_features, bias)  # by domain, then by output

    def forward(self, inputs: Tensor, result_rows: Tensor) -> Tensor:
        """inputs [batch, in_features], result_rows [batch] of domain_result_rows -> [batch, out_features]."""
        results: Tensor = self.maps(inputs)
        return results.reshape(-1, self.out_features).index_select(0, result_rows)


def domain_result_rows(domains: Tensor, n_domains: int) -> Tensor:
    """domains [batch] -> the position of each row's own result among [batch * n_domains] results, [batch].

    Computed once, they serve all layers of a model. Gathering rows is several times faster in ONNX Runtime
    than GatherElements along the domains, or a product with one-hot rows.
    """
    rows = torch.arange(domains.shape[0], dtype=domains.dtype, device=domains.device)
    return rows * n_domains + domains
