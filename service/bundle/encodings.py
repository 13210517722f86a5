"""The three encodings of raw values as ids: vocabulary, hashing, bins; it knows neither fields nor files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from service.bundle.bounds import MAX_BINS, MAX_CARDINALITY, MAX_SEED
from service.bundle.errors import show

MISSING_ID = 0
OOV_ID = 1
FIRST_ID = 2


@dataclass(frozen=True)
class Vocabulary:
    """Values with an id of their own: position i has base id FIRST_ID + i; all other values have OOV_ID."""

    values: tuple[str, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", tuple(self.values))
        if not all(isinstance(value, str) and value for value in self.values):
            raise ValueError("'values' must be strings that are not empty; the empty string means missing")
        if len(set(self.values)) != len(self.values):
            raise ValueError(f"'values' must be unique (got {show(first_repeated(self.values))} twice)")
        try:
            "".join(self.values).encode()
        except UnicodeEncodeError as error:
            raise ValueError("'values' must be text that UTF-8 can hold (got a lone surrogate)") from error

    @property
    def size(self) -> int:
        """The number of ids from FIRST_ID on."""
        return len(self.values)


@dataclass(frozen=True)
class Hashing:
    """Feature hashing: base id FIRST_ID + crc32(value in UTF-8, seed) % buckets, on every machine; never OOV.

    Reference: Weinberger et al., Feature Hashing for Large Scale Multitask Learning (2009).
    """

    buckets: int
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.buckets <= MAX_CARDINALITY - FIRST_ID:
            raise ValueError(
                f"'buckets' must be from 1 to {MAX_CARDINALITY - FIRST_ID} (got {self.buckets!r})"
            )
        if not 0 <= self.seed <= MAX_SEED:
            raise ValueError(f"'seed' must be from 0 to {MAX_SEED} (got {self.seed!r})")

    @property
    def size(self) -> int:
        """The number of ids from FIRST_ID on."""
        return self.buckets


@dataclass(frozen=True)
class Bins:
    """Intervals of numbers: base id FIRST_ID + bisect_right(edges, x), so edge i is the start of bin i + 1.

    It only compares float64 values, so a value falls into the same bin on every machine.
    """

    edges: tuple[float, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "edges", tuple(float(edge) for edge in self.edges))
        if len(self.edges) > MAX_BINS:
            raise ValueError(f"'edges' must be at most {MAX_BINS} (got {len(self.edges)})")
        if not all(map(math.isfinite, self.edges)):
            raise ValueError("'edges' must be finite numbers (got nan or inf)")
        for left, right in zip(self.edges, self.edges[1:], strict=False):
            if not left < right:
                raise ValueError(f"'edges' must increase strictly (got {left!r} before {right!r})")

    @property
    def size(self) -> int:
        """The number of ids from FIRST_ID on."""
        return len(self.edges) + 1


Encoding = Vocabulary | Hashing | Bins


def first_repeated(values: Sequence[str]) -> str:
    """The first value that repeats an earlier one; there must be one."""
    seen: set[str] = set()
    return next(value for value in values if value in seen or seen.add(value))  # type: ignore[func-returns-value]
