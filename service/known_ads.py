"""What a request's candidates leave out, out of the catalogue: what they give wins, field by field.

A field that is given as null is given: it is missing, whatever the catalogue has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from service.bundle.encoder import Encoder
from service.bundle.schema import Role
from service.catalogue import Catalogue, Ids, candidate_columns
from service.wire import Candidate, CandidateColumns


class KnownAds:
    """Fills the candidate columns of a schema from the catalogue of the moment, if there is one."""

    def __init__(self, encoder: Encoder) -> None:
        self.catalogue: Catalogue | None = None
        self._encoder = encoder
        self._columns = candidate_columns(encoder.schema)
        # Of each field its columns in a row of ids, and in a row of the catalogue.
        self._fields: list[tuple[str, slice, slice]] = []
        start = 0
        for field in encoder.schema.fields:
            if field.role is Role.CANDIDATE:
                here = slice(start, start + field.max_length)
                self._fields.append((field.name, encoder.schema.column_slices[field.name], here))
                start = here.stop

    def encode_rows(
        self, catalogue: Catalogue, context: Mapping[str, Any], candidates: Sequence[Candidate]
    ) -> tuple[Ids, int]:
        """ids [n, columns], and how many candidates are unknown ads. Raises InvalidValue."""
        ad_ids = [candidate.id for candidate in candidates]
        features = [candidate.features for candidate in candidates]
        if not any(features):
            return self._encode_ids(catalogue, context, ad_ids)
        ids = self._encoder.encode_request(context, features)
        names = self._encoder.candidate_names
        gaps = [row for row, given in enumerate(features) if not names <= given.keys()]
        if not gaps:
            return ids, 0
        rows = catalogue.rows_of([ad_ids[row] for row in gaps])
        known = catalogue.ids.take(rows, axis=0)
        into = np.array(gaps, np.intp)
        for name, there, here in self._fields:
            absent = np.array([name not in features[row] for row in gaps], bool)
            ids[into[absent], there] = known[absent, here]
        return ids, _count_unknown(rows, catalogue, [ad_ids[row] for row in gaps])

    def encode_columns(
        self, catalogue: Catalogue, context: Mapping[str, Any], candidates: CandidateColumns, rows: int
    ) -> tuple[Ids, int]:
        """The same for candidates as columns: a column that is given is given for all of them."""
        if candidates.id is not None and not candidates.features:
            return self._encode_ids(catalogue, context, candidates.id)
        ids = self._encoder.encode_request_columns(context, candidates.features, rows)
        gaps = [field for field in self._fields if field[0] not in candidates.features]
        if candidates.id is None or not gaps:
            return ids, 0
        found = catalogue.rows_of(candidates.id)
        known = catalogue.ids.take(found, axis=0)
        for _, there, here in gaps:
            ids[:, there] = known[:, here]
        return ids, _count_unknown(found, catalogue, candidates.id)

    def _encode_ids(
        self, catalogue: Catalogue, context: Mapping[str, Any], ad_ids: Sequence[str | None]
    ) -> tuple[Ids, int]:
        """Candidates that are nothing but ids: the context, and one gather."""
        ids = self._encoder.encode_context(context, len(ad_ids))
        rows = catalogue.rows_of(ad_ids)
        ids[:, self._columns] = catalogue.ids.take(rows, axis=0)
        return ids, _count_unknown(rows, catalogue, ad_ids)


def _count_unknown(rows: Ids, catalogue: Catalogue, ad_ids: Sequence[str | None]) -> int:
    """How many have an id that the catalogue does not hold. Who has none names no ad."""
    unknown = int(np.count_nonzero(rows == catalogue.missing_row))
    return unknown - ad_ids.count(None) if unknown else 0
