"""How a schema grows out of yesterday's: values come and are forgotten, bins and buckets stay.

It knows what was counted of a log, not how it was read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from export.data.past import Past, is_known
from service.bundle.schema import FIRST_ID, Schema, Vocabulary

FORGET_AFTER: Final = 30

WhichBins = Literal["keep", "refit"]


@dataclass(frozen=True, eq=False)
class Growth:
    """What a log's schema grows out of, and by which rules.

    forget_after  a value leaves its vocabulary once so many runs in a row, this one included, do not have it
    bins          whether bins of numbers stay as they are; weights hang on them
    fixed         fields whose vocabulary stays as it is, whatever the log holds
    """

    past: Past
    forget_after: int = FORGET_AFTER
    bins: WhichBins = "keep"
    fixed: frozenset[str] = frozenset()

    def vocabulary(self, name: str, seen: NDArray[np.bool_], frequent: Sequence[str]) -> Vocabulary:
        """The field's values from now on: the old ones that stay, in their order, then new ones.

        `seen` [old values] says which of the old ones the training part has, however rarely; `frequent` are
        the values that have enough of its rows for an id.
        """
        old = self.past.schema.field(name).encoding
        if not isinstance(old, Vocabulary):
            raise TypeError(f"'{name}' must have a vocabulary (got {type(old).__name__})")
        stays = seen | (self.past.absent[name][FIRST_ID:] + 1 < self.forget_after)
        known = set(old.values)
        return Vocabulary((*compress(old.values, stays), *(one for one in frequent if one not in known)))


@dataclass(frozen=True)
class Changes:
    """How many values of all vocabularies stayed, came and were forgotten."""

    kept: int
    new: int
    forgotten: int

    @classmethod
    def of(cls, old: Schema, new: Schema) -> Changes:
        """From one schema to the next; fields with the values of another count once, in that one."""
        known, kept, came, before = is_known(old, new), 0, 0, 0
        for field in new.fields:
            if isinstance(field.encoding, Vocabulary) and field.same_values_as is None:
                found = int(np.count_nonzero(known[field.name][FIRST_ID:]))
                kept, came = kept + found, came + field.encoding.size - found
                before += old.field(field.name).encoding.size
        return cls(kept, came, before - kept)

    def __str__(self) -> str:
        return f"{self.kept:,} values kept, {self.new:,} new, {self.forgotten:,} forgotten"
