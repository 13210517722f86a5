"""What a model must know of a column of ids: a name, how many ids there are, how many stand in a row.

It knows nothing of raw values: how a value became an id is the schema's business, not a model's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

PADDING_ID = 0
"""The id that fills a sequence shorter than its field's width; in a field of width 1 an id like any other."""


@dataclass(frozen=True)
class Field:
    """One slot of the input.

    Its ids lie in [0, cardinality). A width above 1 is a sequence, pooled by the mean over the ids != 0.
    """

    name: str
    cardinality: int
    width: int = 1

    def __post_init__(self) -> None:
        if self.cardinality < 1:
            raise ValueError(
                f"'cardinality' of field '{self.name}' must be at least 1 (got {self.cardinality}); "
                "ids lie in [0, cardinality)"
            )
        if self.width < 1:
            raise ValueError(
                f"'width' of field '{self.name}' must be at least 1 (got {self.width}); "
                "it is the number of ids in a row"
            )


def columns(fields: Sequence[Field]) -> int:
    """Columns of the id matrix of these fields: the sum of their widths."""
    return sum(field.width for field in fields)


def column_offsets(fields: Sequence[Field]) -> list[int]:
    """For each column the first row of its field in one table that holds all fields, [columns]."""
    offsets, first_row = [], 0
    for field in fields:
        offsets += [first_row] * field.width
        first_row += field.cardinality
    return offsets
