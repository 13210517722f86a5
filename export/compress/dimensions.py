"""Whole dimensions of the embeddings: the same numbers of every field's vectors, since all have one length.

It knows that models lay embeddings out by field, SENET, which averages over the dimensions, and STAR, whose
normalization makes something of zeros. What else a model does with a dimension shows in its logits:
`export.compress.compact` compares them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from export.compress.plan import Plan, UnsupportedError, build, layers_of, require_argument
from export.compress.whole_units import Units, columns_of
from models.embedding import FeaturesEmbedding
from models.fibinet import SENET
from models.star import STAR, PartitionedNorm, StarLinear


def find_dimensions(model: nn.Module) -> list[Units]:
    """The dimensions of the model's embeddings; tables of one number an id (linear terms) have none."""
    tables = _tables(model)
    if not tables:
        return []
    entering = tuple(columns_of(table.table.weight) for table in tables)
    return [Units("dimensions", tables[0].table.embedding_dim, entering)]


def without_dead_dimensions(model: nn.Module, plan: Plan) -> Plan:
    """Narrows the embeddings by the dimensions that are zero in every table, and all that reads them."""
    units = find_dimensions(model)
    if not units:
        return plan
    live = units[0].live()
    if live.all():
        return plan
    require_argument(model, "dim")
    before, after = len(live), int(live.sum())
    planned = plan.changed({}, dim=after)
    state = {**model.state_dict(), **plan.tensors}
    tensors = {
        name: _narrowed(state[name], target.shape, live)
        for name, target in build(model, planned).state_dict().items()
        if name in state and state[name].shape != target.shape
    }
    if isinstance(model, STAR):
        tensors["layers.0.bias"] = _star_bias(model, live)
    for path, layer in layers_of(model, SENET):  # the mean is over fewer numbers, of the same sum
        tensors[f"{path}.squeeze.weight"] = layer.squeeze.weight.detach() * (after / before)
    return planned.changed(tensors)


@torch.no_grad()
def _star_bias(model: STAR, live: Tensor) -> Tensor:
    """The first biases of domains with what dead dimensions, normalized, add to them.

    Normalization makes a number of each zero that is the same in all rows of a domain.
    """
    (first, *_), normalize = model.layers, model.normalize
    if not (isinstance(first, StarLinear) and isinstance(normalize, PartitionedNorm)):
        raise UnsupportedError("its normalization is folded into a layer")
    dead = (~live).repeat(first.weight.shape[2] // len(live)).nonzero().flatten()
    return first.bias_with(normalize.of_zeros(), dead.to(first.weight.device))


def _tables(model: nn.Module) -> list[FeaturesEmbedding]:
    """Those of the model's dimension, the largest that there is."""
    tables = [layer for _, layer in layers_of(model, FeaturesEmbedding)]
    dim = max((layer.table.embedding_dim for layer in tables), default=1)
    return [layer for layer in tables if layer.table.embedding_dim == dim > 1]


def _narrowed(tensor: Tensor, shape: torch.Size, live: Tensor) -> Tensor:
    """The tensor without the dead dimensions, on each axis that is shorter in `shape`.

    An axis holds some vectors, one behind the other, and perhaps other numbers after them.
    """
    before, after = len(live), int(live.sum())
    for axis, (length, target) in enumerate(zip(tensor.shape, shape, strict=True)):
        if length == target:
            continue
        vectors, rest = divmod(length - target, before - after)
        if rest or vectors * before > length:
            raise UnsupportedError(f"a layer of {length} numbers does not hold whole embeddings")
        kept = torch.cat([live.repeat(vectors), live.new_ones(length - vectors * before)])
        tensor = tensor.index_select(axis, kept.nonzero().flatten().to(tensor.device))
    return tensor
