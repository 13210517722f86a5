"""A linear map with a full matrix, or with the product of two of low rank.

It knows no model; those that cross their inputs use it.
"""

from __future__ import annotations

from torch import nn

from models.hyperparameters import check_count


def linear_map(
    in_features: int, out_features: int, rank: int | None, *, bias: bool = True
) -> nn.Linear | nn.Sequential:
    """W x + b, or with a rank U V^T x + b, as two layers: [batch, .., in] -> [batch, .., out]."""
    if rank is None:
        return nn.Linear(in_features, out_features, bias=bias)
    check_rank(rank, min(in_features, out_features))
    return nn.Sequential(nn.Linear(in_features, rank, bias=False), nn.Linear(rank, out_features, bias=bias))


def check_rank(rank: int, width: int) -> None:
    """Raises ValueError for a rank that no matrix of this width has."""
    check_count("rank", rank, 1, "None means a full matrix")
    if rank > width:
        raise ValueError(
            f"'rank' must be at most {width} (got {rank!r}), the width of the matrices; None means a full one"
        )


def init_xavier(layers: nn.Linear | nn.Sequential) -> None:
    """Xavier-uniform weights of each of the layers."""
    for layer in layers.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
