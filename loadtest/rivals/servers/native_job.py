"""The job of a rival that has Bidlight's native core too: what is left to compare is the server around it.

It takes plain requests only, as rivals are sent.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from loadtest.rivals.servers.job import ARM, Job
from loadtest.rivals.servers.known_ads import ads_in
from service.bidding import BidPolicy, native_policy
from service.bundle.native import _native
from service.features.ads import CatalogueBuilder
from service.reading import read_plain
from service.wire import JSON, MAX_CANDIDATES, before_results


class NativeJob(Job):
    """A bundle, loaded and warm, whose requests are read, encoded and answered by the core."""

    def __init__(self, folder: Path | str, ads: Path | str | None = None) -> None:
        super().__init__(folder)
        native = self._encoder.native
        if native is None:
            raise RuntimeError(
                "the native core must be built; install Bidlight where there is a C++ compiler"
            )
        self._native = native
        self._policy = native_policy(BidPolicy())
        self._before_results = before_results(JSON, ARM, self.bundle).text
        self._catalogue: _native.Catalogue | None = None
        if ads is not None:
            builder = CatalogueBuilder(self._encoder)
            for piece in ads_in(Path(ads)):
                builder.add([(ad.id, msgspec.msgpack.encode(ad.features)) for ad in piece])
            self._catalogue = builder.build().native

    def read(self, body: bytes) -> _native.PlainRequest:
        """A request. Raises ValueError for one that is not plain."""
        request = read_plain(body, JSON, MAX_CANDIDATES)
        if request is None:
            raise ValueError(f"the body must be a plain request (got {body[:80]!r})")
        return request

    def answer_all(self, requests: Sequence[_native.PlainRequest]) -> list[bytes]:
        """The answers of several requests, with one run of the graph."""
        sizes = [request.rows for request in requests]
        ids = np.empty((sum(sizes), self._schema.columns), np.int32)
        context = np.empty(self._encoder.context_width, np.int32)
        ends = [0, *itertools.accumulate(sizes)]
        for request, (start, end) in zip(requests, itertools.pairwise(ends), strict=True):
            candidates = np.empty((end - start, self._encoder.candidate_width), np.int32)
            if request.encode(self._native, self._catalogue, context, candidates) is None:
                raise ValueError("a request must be plain to the schema")
            ids[start:end] = self._encoder.join(context, candidates)
        pctrs = self.pctrs(ids)
        return [
            request.answer(pctrs[start:end], self._before_results, self._policy)[0]
            for request, (start, end) in zip(requests, itertools.pairwise(ends), strict=True)
        ]
