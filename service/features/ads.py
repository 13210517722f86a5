"""What a request's candidates leave out, out of the catalogue: what they give wins, field by field.

A field that is given as null is given: it is missing, whatever the catalogue has.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from service.bundle.encoder import Encoder
from service.bundle.schema import Role
from service.features.catalogue import Catalogue, Ids
from service.wire import Candidate, CandidateColumns


class KnownAds:
    """Fills the candidate columns of a schema from the catalogue of the moment, if there is one."""

    def __init__(self, encoder: Encoder) -> None:
        self.catalogue: Catalogue | None = None
        self._encoder = encoder
        # Of each field its columns among the candidate's.
        self._fields: list[tuple[str, slice]] = []
        start = 0
        for field in encoder.schema.fields:
            if field.role is Role.CANDIDATE:
                self._fields.append((field.name, slice(start, start + field.max_length)))
                start += field.max_length

    def encode_rows(self, catalogue: Catalogue, candidates: Sequence[Candidate]) -> tuple[Ids, int]:
        """ids [n, candidate columns], and how many candidates are unknown ads. Raises InvalidValue."""
        ad_ids = [candidate.id for candidate in candidates]
        features = [candidate.features for candidate in candidates]
        if not any(features):
            return _known(catalogue, ad_ids)
        ids = self._encoder.encode_candidates(features)
        names = self._encoder.candidate_names
        gaps = [row for row, given in enumerate(features) if not names <= given.keys()]
        if not gaps:
            return ids, 0
        known, unknown = _known(catalogue, [ad_ids[row] for row in gaps])
        into = np.array(gaps, np.intp)
        for name, place in self._fields:
            absent = np.array([name not in features[row] for row in gaps], bool)
            ids[into[absent], place] = known[absent, place]
        return ids, unknown

    def encode_columns(
        self, catalogue: Catalogue, candidates: CandidateColumns, rows: int
    ) -> tuple[Ids, int]:
        """The same for candidates as columns: a column that is given is given for all of them."""
        if candidates.id is not None and not candidates.features:
            return _known(catalogue, candidates.id)
        ids = self._encoder.encode_candidate_columns(candidates.features, rows)
        gaps = [place for name, place in self._fields if name not in candidates.features]
        if candidates.id is None or not gaps:
            return ids, 0
        known, unknown = _known(catalogue, candidates.id)
        for place in gaps:
            ids[:, place] = known[:, place]
        return ids, unknown


def _known(catalogue: Catalogue, ad_ids: Sequence[str | None]) -> tuple[Ids, int]:
    """What the catalogue has of candidates, one gather, and how many of them it does not hold."""
    rows = catalogue.rows_of(ad_ids)
    return catalogue.ids.take(rows, axis=0), _count_unknown(rows, catalogue, ad_ids)


def _count_unknown(rows: Ids, catalogue: Catalogue, ad_ids: Sequence[str | None]) -> int:
    """How many have an id that the catalogue does not hold. Who has none names no ad."""
    unknown = int(np.count_nonzero(rows == catalogue.missing_row))
    return unknown - ad_ids.count(None) if unknown else 0
