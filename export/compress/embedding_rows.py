"""Merges the rows of a field that are zero in every table into one row, and renumbers the field's ids.

It knows fields, tables and how rows are stored, neither models nor what ids mean. A field keeps its storage:

- full: a row for each id, so ids are renumbered as rows are.
- qr: id // collisions is renumbered as rows are, and id % collisions stays, so it meets the same factor.
- hashed: id % rows is renumbered as rows are, and so many rows fewer fold the ids.

In all three a field of the new cardinality has as many rows as are left, and its ids have no gaps.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.embedding import FeaturesEmbedding
from models.fields import Field, first_rows, stored_rows
from service.bundle.schema import FIRST_ID


@dataclass(frozen=True)
class MergedRows:
    """The fields with fewer ids, the smaller tables in the order given, and the new id of each old one."""

    fields: tuple[Field, ...]
    tables: tuple[Tensor, ...]
    renumberings: dict[str, NDArray[np.int32]]  # of the fields whose ids changed


def merge_zero_rows(
    fields: Sequence[Field], layers: Sequence[FeaturesEmbedding], among: Collection[str] | None = None
) -> MergedRows:
    """Merges the zero rows of each field, or of those `among` that are named; `layers` are not changed.

    Each layer reads some of the fields, or all. Rows of a field merge where they are zero in every layer that
    reads it; a field that no layer reads keeps its ids. One that shares another's rows follows it.
    """
    kept: dict[str, NDArray[np.integer]] = {}
    renumberings: dict[str, NDArray[np.int32]] = {}
    own = [one for one in fields if one.same_values_as is None and (among is None or one.name in among)]
    zero = [_zero_rows(layer, {field.name for field in own}) for layer in layers]
    for field in own:
        dead = [of_layer[field.name] for of_layer in zero if field.name in of_layer]
        new_rows = renumber(np.logical_and.reduce(dead)) if dead else None
        if new_rows is not None:
            kept[field.name] = first_of_each(new_rows)
            renumberings[field.name] = _new_ids(field, new_rows)
    for field in fields:
        if field.same_values_as in renumberings:
            renumberings[field.name] = renumberings[field.same_values_as]
    smaller = tuple(_of_ids(field, renumberings.get(field.name)) for field in fields)
    return MergedRows(smaller, tuple(_smaller_table(layer, kept) for layer in layers), renumberings)


def renumber(dead: NDArray[np.bool_]) -> NDArray[np.int32] | None:
    """dead [rows], whether a row is zero -> new rows [rows].

    Returns None if no rows can be merged. Rows 0 and 1, of missing and of out-of-vocabulary values, keep
    their numbers. All others that are dead share the number of the first of them; live ones keep their order.
    So new numbers appear in ascending order, without a gap, and no other row gets 0: in a sequence dead ids
    still count as elements of the mean, unlike padding.
    """
    shared = dead.copy()
    shared[:FIRST_ID] = False
    if shared.sum() < 2:
        return None
    first = int(shared.argmax())
    counted = ~shared
    counted[first] = True
    numbers = np.cumsum(counted) - 1
    numbers[shared] = numbers[first]
    return numbers.astype(np.int32)


def first_of_each(renumbering: NDArray[np.int32]) -> NDArray[np.intp]:
    """For each new number the first old one that it replaces: the rows of the smaller table."""
    return np.unique(renumbering, return_index=True)[1]


def _new_ids(field: Field, new_rows: NDArray[np.int32]) -> NDArray[np.int32]:
    """The new id of each id [cardinality], by the new row of each row that the field stores."""
    ids = np.arange(field.cardinality, dtype=np.int32)
    if field.storage == "qr":
        return new_rows[ids // field.collisions] * field.collisions + ids % field.collisions
    if field.storage == "hashed":
        rows, left = len(new_rows), int(new_rows.max()) + 1
        return ids // rows * left + new_rows[ids % rows]
    return new_rows[ids]


def _of_ids(field: Field, renumbering: NDArray[np.int32] | None) -> Field:
    if renumbering is None:
        return field
    old_ids = first_of_each(renumbering)
    values = None if field.values is None else tuple(field.values[old] for old in old_ids)
    return replace(field, cardinality=len(old_ids), values=values)


def _zero_rows(layer: FeaturesEmbedding, names: Collection[str]) -> dict[str, NDArray[np.bool_]]:
    """For each of these fields that the layer reads, whether each row is zero for all of its ids, [rows].

    With `qr` that is the product.
    """
    table, found = layer.table.weight.detach(), {}
    for field, first in zip(layer.fields, first_rows(layer.fields), strict=True):
        if field.name in names:
            rows = table[first : first + stored_rows(field)]
            if field.storage == "qr":
                rows = rows * (layer.factors_of(field.name).detach() != 0).any(dim=0)
            found[field.name] = (rows == 0).all(dim=1).cpu().numpy()
    return found


def _smaller_table(layer: FeaturesEmbedding, kept: dict[str, NDArray[np.integer]]) -> Tensor:
    """The layer's table with those rows of each field that are kept; all of a field that is not named."""
    taken = [
        first + kept.get(field.name, np.arange(stored_rows(field)))
        for field, first in zip(layer.fields, first_rows(layer.fields), strict=True)
        if field.same_values_as is None
    ]
    rows = torch.from_numpy(np.concatenate(taken))
    table = layer.table.weight.detach()
    return table[rows.to(table.device)]
