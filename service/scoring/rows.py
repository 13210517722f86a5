"""The rows of one request, and of a batch of requests; each request's context is held once."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import compress

import numpy as np
from numpy.typing import NDArray

from service.bundle.schema import Role, Schema
from service.calibration.revisions import Revision
from service.tracing.trace import RequestTrace

Ids = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Column:
    """Where the ids of a field stand, which has one a row: among context or candidate columns."""

    role: Role
    position: int

    @classmethod
    def of(cls, schema: Schema, name: str) -> Column:
        """The column of the field of that name, which must be no sequence."""
        role, position = schema.field(name).role, 0
        for field in schema.fields:
            if field.name == name:
                break
            position += field.max_length if field.role is role else 0
        return cls(role, position)


@dataclass(slots=True, eq=False)
class RequestRows:
    """The ids of one request: its context [context columns] and its candidates [n, candidate columns].

    `is_large` says which graph scores it; a part of a large request is large. `unknown_ads` is how many
    candidates the catalogue did not hold, `unknown_names` are names of a plain request that no field has.
    `revision` corrects the bundle's pCTRs, all of a request alike, None: they stay. `trace` notes when they
    run, None: the request is not traced.
    """

    context: Ids
    candidates: Ids
    is_large: bool = False
    unknown_ads: int = 0
    unknown_names: Collection[str] = ()
    revision: Revision | None = None
    trace: RequestTrace | None = None

    def __len__(self) -> int:
        return len(self.candidates)

    def __getitem__(self, rows: slice) -> RequestRows:
        return RequestRows(
            self.context, self.candidates[rows], self.is_large, revision=self.revision, trace=self.trace
        )


@dataclass(slots=True, eq=False)
class BatchRows:
    """Several requests at once: contexts [requests, context columns], candidates [rows, candidate columns].

    The rows of a request are adjacent; `sizes` [requests] is how many each has, `is_large` [requests] says
    which graph scores it.
    """

    contexts: Ids
    sizes: NDArray[np.int32]
    candidates: Ids
    is_large: list[bool]

    @classmethod
    def of(cls, requests: Sequence[RequestRows]) -> BatchRows:
        """All of them, in order."""
        if len(requests) == 1:
            (one,) = requests
            contexts, candidates = one.context[None], one.candidates
        else:
            contexts = np.concatenate([each.context for each in requests]).reshape(len(requests), -1)
            candidates = np.concatenate([each.candidates for each in requests])
        sizes = np.array([len(each.candidates) for each in requests], np.int32)
        return cls(contexts, sizes, candidates, [each.is_large for each in requests])

    def select(self, chosen: NDArray[np.bool_]) -> BatchRows:
        """The `chosen` requests [requests], in order."""
        rows = chosen.repeat(self.sizes)
        is_large = [*compress(self.is_large, chosen)]
        return BatchRows(self.contexts[chosen], self.sizes[chosen], self.candidates[rows], is_large)

    @property
    def request_index(self) -> NDArray[np.int32]:
        """The request of each row [rows]."""
        return np.arange(len(self.sizes), dtype=np.int32).repeat(self.sizes)

    def contexts_by_row(self) -> Ids:
        """Contexts that broadcast to the rows: [rows or 1, context columns]."""
        if len(self.sizes) == 1 or len(self.sizes) == len(self.candidates):
            return self.contexts
        return self.contexts.repeat(self.sizes, axis=0)

    def ids_of(self, column: Column) -> Ids:
        """The ids of one field, that broadcast to the rows: [rows or 1]."""
        if column.role is Role.CANDIDATE:
            return self.candidates[:, column.position]
        return self.contexts_by_row()[:, column.position]
