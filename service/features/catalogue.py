"""The ads that requests name by id alone: ids -> rows of encoded features; it knows no store and no request.

A million ads of 8 candidate columns take 46 MB, 32 of features and 14 of index; while the next catalogue is
built beside the one that serves, three times that.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.bundle.encoder import Encoder, InvalidValue
from service.bundle.schema import MISSING_ID, Role
from service.features.store import unpack

logger = logging.getLogger("bidlight")

Ids = NDArray[np.int32]
Hashes = NDArray[np.uint64]

# Ads a bucket of the index, on average; with 64-bit hashes the fullest of half a million has about ten.
ADS_A_BUCKET = 2
MIN_BUCKET_BITS = 1
FIRST_CAPACITY = 1024


def hashes_of(ids: Sequence[str | None]) -> Hashes:
    """uint64 [n]: Python's own hash, which is keyed anew in every process: nobody can aim at an ad's."""
    return np.fromiter(map(hash, ids), np.int64, len(ids)).view(np.uint64)


class AdIndex:
    """Hashes of ids -> rows, in 14 bytes an ad and no Python object.

    The hashes lie sorted, and `starts` tells where those with the same first bits begin; so a look-up of many
    ids is a few operations of numpy, each on all of them, that touch one or two places of memory an id. The
    ids are not kept: that two of a million ads, or an unknown id and one of them, have the same 64 bits has a
    chance of 3e-8, or 5e-14.

    `hashes` [n] are those of rows 0 to n - 1; of equal ones the last row holds.
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
        bits = max(MIN_BUCKET_BITS, (self._size // ADS_A_BUCKET).bit_length())
        self._shift = np.uint64(64 - bits)
        buckets = ordered >> self._shift
        self._starts = np.searchsorted(buckets, np.arange(1 << bits, dtype=np.uint64)).astype(np.int32)
        widest = max(1, int(np.diff(self._starts, append=self._size).max()))
        self._steps = np.arange(widest, dtype=np.int32)
        # The last bucket may be looked through beyond its end.
        self._hashes = np.concatenate([ordered, np.zeros(widest, np.uint64)])
        self._rows = np.concatenate([order, np.full(widest, self.missing_row, np.int32)])

    def __len__(self) -> int:
        """How many ads there are."""
        return self._size

    @property
    def nbytes(self) -> int:
        """Bytes of memory."""
        return self._starts.nbytes + self._hashes.nbytes + self._rows.nbytes

    def rows_of(self, hashes: Hashes) -> Ids:
        """Rows [n]; `missing_row` where there is no such ad."""
        first = self._starts.take(hashes >> self._shift)
        candidates = self._hashes.take(np.add.outer(first, self._steps))
        place = first + (candidates == hashes[:, None]).argmax(axis=1)
        rows: Ids = self._rows.take(place)
        rows[self._hashes.take(place) != hashes] = self.missing_row
        return rows


class Catalogue:
    """All ads of a schema, encoded. Never changed: another one takes its place.

    `ids` int32 [ads + 1, candidate columns], in the order of the schema; the last row is an unknown ad's.
    """

    def __init__(self, index: AdIndex, ids: Ids) -> None:
        self._index = index
        self.ids = ids
        self.missing_row = index.missing_row

    def __len__(self) -> int:
        """How many ads there are."""
        return len(self._index)

    @property
    def nbytes(self) -> int:
        """Bytes of memory."""
        return self._index.nbytes + self.ids.nbytes

    def rows_of(self, ad_ids: Sequence[str | None]) -> Ids:
        """Rows [n] of `ids`; `missing_row` where the ad is unknown, or has no id."""
        return self._index.rows_of(hashes_of(ad_ids))


class CatalogueBuilder:
    """Encodes ads as they come. A value that the encoder refuses is missing, and counted in `refused`.

    Between two pieces other threads get their turn. What is done at once for all ads, at the end or when the
    arrays grow, is numpy's, which lets them work meanwhile.
    """

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._hashes: Hashes = np.empty(FIRST_CAPACITY, np.uint64)
        width = sum(field.max_length for field in encoder.schema.fields if field.role is Role.CANDIDATE)
        self._ids: Ids = np.empty((FIRST_CAPACITY, width), np.int32)
        self._size = 0
        self.refused = 0

    def add(self, ads: Sequence[tuple[str, bytes]]) -> None:
        """Some more ads and their values."""
        if not ads:
            return
        encoded = self._encode([self._unpacked(value) for _, value in ads])
        stop = self._size + len(ads)
        while stop >= len(self._hashes):  # the last row is kept free
            self._hashes = _doubled(self._hashes)
            self._ids = _doubled(self._ids)
        self._hashes[self._size : stop] = hashes_of([ad_id for ad_id, _ in ads])
        self._ids[self._size : stop] = encoded
        self._size = stop

    def build(self) -> Catalogue:
        """The catalogue of all that was added."""
        self._ids[self._size] = MISSING_ID
        # What the arrays have beyond these was never written, and takes no memory.
        return Catalogue(AdIndex(self._hashes[: self._size]), self._ids[: self._size + 1])

    def _encode(self, values: list[dict[str, Any]]) -> Ids:
        """ids [n, candidate columns]."""
        while True:
            try:
                return self._encoder.encode_candidates(values)
            except InvalidValue as error:
                self._refuse(error.message)
                del values[error.row or 0][error.field]

    def _unpacked(self, value: bytes) -> dict[str, Any]:
        try:
            return unpack(value)
        except ValueError as error:
            self._refuse(str(error))
            return {}

    def _refuse(self, message: str) -> None:
        if not self.refused:
            logger.error("a feature of an ad is left out: %s", message)
        self.refused += 1


def _doubled(array: NDArray[Any]) -> NDArray[Any]:
    larger = np.empty((2 * len(array), *array.shape[1:]), array.dtype)
    larger[: len(array)] = array
    return larger
