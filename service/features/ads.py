"""The ads that requests name by id: the catalogue of their encoded features, and what it adds to a candidate.

It reads no store and parses no request. A million ads of 8 candidate columns take 46 MB, 32 of features and
14 of index; while the next catalogue is built beside the one that serves, three times that.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.bundle.encoder import Encoder, InvalidValue
from service.bundle.errors import show
from service.bundle.native import _native
from service.bundle.schema import MISSING_ID, OOV_ID, Role
from service.features.store import unpack
from service.wire import Candidate, CandidateColumns

logger = logging.getLogger("bidlight")

Ids = NDArray[np.int32]
Hashes = NDArray[np.uint64]

# Ads in a bucket of the index, on average; with 64-bit hashes the fullest of half a million has about ten.
ADS_IN_A_BUCKET = 2
MIN_BUCKET_BITS = 1
FIRST_CAPACITY = 1024


def hashes_of(ids: Sequence[str | None]) -> Hashes:
    """uint64 [n]: Python's own hash. Its key is new in every process, so nobody can aim at an ad's hash."""
    return np.fromiter(map(hash, ids), np.int64, len(ids)).view(np.uint64)


class AdIndex:
    """Hashes of ids -> rows, in 14 bytes an ad and no Python object.

    The hashes are sorted, and `starts` holds where those with the same first bits begin. A lookup of many ids
    is a few numpy operations on all of them, which touch one or two places of memory for each. The ids are
    not kept: two of a million ads have the same 64 bits with a probability of 3e-8, an unknown id and one of
    them with 5e-14.

    `hashes` [n] are those of rows 0 to n - 1; of equal hashes, the last row is kept.
    """

    def __init__(self, hashes: Hashes) -> None:
        order = np.argsort(hashes, kind="stable").astype(np.int32)
        ordered = hashes[order]
        is_last = np.ones(len(order), bool)
        np.not_equal(ordered[1:], ordered[:-1], out=is_last[:-1])
        if not is_last.all():
            order, ordered = order[is_last], ordered[is_last]
        self.missing_row = len(hashes)
        self._size = len(order)
        bits = max(MIN_BUCKET_BITS, (self._size // ADS_IN_A_BUCKET).bit_length())
        self._shift = np.uint64(64 - bits)
        buckets = ordered >> self._shift
        self._starts = np.searchsorted(buckets, np.arange(1 << bits, dtype=np.uint64)).astype(np.int32)
        widest = max(1, int(np.diff(self._starts, append=self._size).max()))
        self._steps = np.arange(widest, dtype=np.int32)
        # Padding: a lookup reads `widest` hashes, also from the last bucket.
        self._hashes = np.concatenate([ordered, np.zeros(widest, np.uint64)])
        self._rows = np.concatenate([order, np.full(widest, self.missing_row, np.int32)])

    def __len__(self) -> int:
        """The number of ads."""
        return self._size

    @property
    def nbytes(self) -> int:
        """Bytes of memory."""
        return self._starts.nbytes + self._hashes.nbytes + self._rows.nbytes

    def native(self, ids: Ids) -> _native.Catalogue:
        """The index and the `ids` of its rows to the native core, which must be built."""
        arrays = self._starts, self._hashes, self._rows, ids
        return _native.Catalogue(*arrays, int(self._shift), len(self._steps), self.missing_row)

    def rows_of(self, hashes: Hashes) -> Ids:
        """Rows [n]; `missing_row` where there is no such ad."""
        first = self._starts.take(hashes >> self._shift)
        candidates = self._hashes.take(np.add.outer(first, self._steps))
        place = first + (candidates == hashes[:, None]).argmax(axis=1)
        rows: Ids = self._rows.take(place)
        rows[self._hashes.take(place) != hashes] = self.missing_row
        return rows


class Catalogue:
    """All ads of a schema, encoded. It never changes; another one replaces it.

    `ids` int32 [ads + 1, candidate columns], in the order of the schema; the last row is an unknown ad's.
    `known_values` is how many of these are values that the schema knows.
    """

    def __init__(self, index: AdIndex, ids: Ids) -> None:
        self._index = index
        self.ids = ids
        self.missing_row = index.missing_row
        self.known_values = int(np.count_nonzero(ids > OOV_ID))
        self._of_columns: dict[tuple[int, ...], Catalogue] = {}

    def __len__(self) -> int:
        """The number of ads."""
        return len(self._index)

    @property
    def nbytes(self) -> int:
        """Bytes of memory."""
        return self._index.nbytes + self.ids.nbytes

    @cached_property
    def native(self) -> _native.Catalogue:
        """The same arrays to the native core, which must be built."""
        return self._index.native(self.ids)

    def of_columns(self, columns: tuple[int, ...]) -> Catalogue:
        """The same ads with some of the columns, which are copied when they are first asked for."""
        found = self._of_columns.get(columns)
        if found is None:
            ids = self.ids.take(columns, axis=1)
            found = self._of_columns[columns] = Catalogue(self._index, ids)
        return found

    def rows_of(self, ad_ids: Sequence[str | None]) -> Ids:
        """Rows [n] of `ids`; `missing_row` where the ad is unknown, or has no id."""
        return self._index.rows_of(hashes_of(ad_ids))


class CatalogueBuilder:
    """Encodes ads in batches. A value that the encoder refuses is missing, and counted in `refused`.

    An ad of which nothing can be read is not in the catalogue; `unreadable` counts these.

    Between two batches other threads can run. What is done for all ads at once, when the arrays grow and at
    the end, is done by numpy, which lets other threads run meanwhile.
    """

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._hashes: Hashes = np.empty(FIRST_CAPACITY, np.uint64)
        width = sum(field.max_length for field in encoder.schema.fields if field.role is Role.CANDIDATE)
        self._ids: Ids = np.empty((FIRST_CAPACITY, width), np.int32)
        self._size = 0
        self.refused = self.unreadable = 0

    def add(self, ads: Sequence[tuple[str, bytes]]) -> None:
        """A batch of ads: ids and their values as the store has them."""
        names, values = list[str](), list[dict[str, Any]]()
        for name, packed in ads:
            try:
                values.append(unpack(packed))
            except ValueError as error:
                if not self.unreadable:
                    logger.error("the ad %s is left out: %s", show(name), error)
                self.unreadable += 1
            else:
                names.append(name)
        if not names:
            return
        encoded = self._encode(values)
        stop = self._size + len(names)
        while stop >= len(self._hashes):  # the last row is kept free
            self._hashes = _doubled(self._hashes)
            self._ids = _doubled(self._ids)
        self._hashes[self._size : stop] = hashes_of(names)
        self._ids[self._size : stop] = encoded
        self._size = stop

    def build(self) -> Catalogue:
        """The catalogue of all ads that were added."""
        self._ids[self._size] = MISSING_ID
        # The rest of the arrays was never written, and takes no memory.
        return Catalogue(AdIndex(self._hashes[: self._size]), self._ids[: self._size + 1])

    def _encode(self, values: list[dict[str, Any]]) -> Ids:
        """ids [n, candidate columns]."""
        while True:
            try:
                return self._encoder.encode_candidates(values)
            except InvalidValue as error:
                if not self.refused:
                    logger.error("a feature of an ad is left out: %s", error.message)
                self.refused += 1
                del values[error.row or 0][error.field]


class KnownAds:
    """Fills the candidate fields that a request leaves out from the current catalogue, if there is one.

    What a candidate gives wins, field by field. A field that is given as null is missing, whatever the
    catalogue has.
    """

    def __init__(self, encoder: Encoder) -> None:
        self.catalogue: Catalogue | None = None
        self._encoder = encoder
        # Each field with its columns among the candidate's.
        self._fields: list[tuple[str, slice]] = []
        start = 0
        for field in encoder.schema.fields:
            if field.role is Role.CANDIDATE:
                self._fields.append((field.name, slice(start, start + field.max_length)))
                start += field.max_length

    def encode(
        self, catalogue: Catalogue | None, candidates: Sequence[Candidate] | CandidateColumns, rows: int
    ) -> tuple[Ids, int]:
        """ids [rows, candidate columns], and the number of unknown ads, 0 without a catalogue.

        Raises InvalidValue.
        """
        if isinstance(candidates, CandidateColumns):
            if catalogue is not None:
                return self._encode_columns(catalogue, candidates, rows)
            return self._encoder.encode_candidate_columns(candidates.features, rows), 0
        if catalogue is not None:
            return self._encode_rows(catalogue, candidates)
        return self._encoder.encode_candidates([candidate.features for candidate in candidates]), 0

    def _encode_rows(self, catalogue: Catalogue, candidates: Sequence[Candidate]) -> tuple[Ids, int]:
        """The same for candidates as rows."""
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

    def _encode_columns(
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
    """ids [n, candidate columns] of the catalogue, and the number of ids that it does not hold."""
    rows = catalogue.rows_of(ad_ids)
    unknown = int(np.count_nonzero(rows == catalogue.missing_row))
    # A candidate without an id names no ad, so it is not unknown.
    return catalogue.ids.take(rows, axis=0), unknown - ad_ids.count(None) if unknown else 0


def _doubled(array: NDArray[Any]) -> NDArray[Any]:
    larger = np.empty((2 * len(array), *array.shape[1:]), array.dtype)
    larger[: len(array)] = array
    return larger
