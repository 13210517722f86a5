"""The fields of a model that hold histories, and the ad's field that each is compared with.

It knows fields, not what a model does with a history.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from models.embedding import pool_sequences
from models.fields import Field, column_slices, find_field


@dataclass(frozen=True)
class History:
    """A sequence field: its position among the fields, its columns, and the column of its target."""

    position: int
    columns: slice
    target: int


def find_histories(fields: Sequence[Field], target: str | None) -> tuple[History, ...]:
    """Every sequence of the context with its target: the field named by `same_values_as`, else `target`.

    A sequence of the candidate (an ad's tags) is no history. If neither is given, the target is the last
    candidate field of width 1, or the last field of width 1. Raises ValueError if there is no history or no
    possible target.
    """
    sequences = [field for field in fields if field.width > 1 and field.role == "context"]
    if not sequences:
        raise ValueError(
            "'fields' must hold a sequence of the context, a user's history (got none); choose another model"
        )
    slices = column_slices(fields)
    chosen = _last_single(fields) if target is None else target
    targets = [field.same_values_as or chosen for field in sequences]
    for name in (chosen, *targets):
        width = fields[find_field(fields, name, "target")].width
        if width != 1:
            raise ValueError(f"'target' must be a field of one id (got '{name}' of {width})")
    return tuple(
        History(fields.index(field), slices[field.name], slices[name].start)
        for field, name in zip(sequences, targets, strict=True)
    )


def with_histories(
    fields: Sequence[Field],
    histories: Sequence[History],
    ids: Tensor,
    rows: Tensor,
    interests: Sequence[Tensor],
) -> Tensor:
    """What a perceptron reads of all fields, side by side: [batch, width].

    ids [batch, columns] and their embeddings `rows` [batch, columns, dim]: a history is its interest, [batch,
    any width], any other sequence is pooled.
    """
    parts, field, column = [], 0, 0
    for history, interest in zip(histories, interests, strict=True):
        before = slice(column, history.columns.start)
        parts += [*_pooled(fields[field : history.position], ids[:, before], rows[:, before]), interest]
        field, column = history.position + 1, history.columns.stop
    return torch.cat([*parts, *_pooled(fields[field:], ids[:, column:], rows[:, column:])], dim=1)


def _pooled(fields: Sequence[Field], ids: Tensor, rows: Tensor) -> list[Tensor]:
    """[batch, n_fields * dim] of fields without a history; nothing of no fields."""
    return [pool_sequences(fields, ids, rows).flatten(1)] if fields else []


def _last_single(fields: Sequence[Field]) -> str:
    single = [field for field in fields if field.width == 1]
    if not single:
        raise ValueError("'fields' must hold a field of one id to compare a history with (got none)")
    return ([field for field in single if field.role == "candidate"] or single)[-1].name
