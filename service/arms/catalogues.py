"""Keeps the arms' catalogues fresh: reads all ads in a thread, encodes them, and swaps what is served.

It knows of an arm its encoder, and where its catalogue goes.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Iterable

from service.arms.split import Arm
from service.features.catalogue import Catalogue, CatalogueBuilder
from service.features.store import FeatureStore, StoreUnavailable
from service.metrics.families import Metrics

logger = logging.getLogger("bidlight")

# Of the time that a refresh takes, so much is left to requests: Python runs one thread at a time.
RESTING_SHARE = 0.5
# A request waits for as many to be encoded at most: about half a millisecond.
ADS_AT_ONCE = 64
# After a failure the next try comes sooner than the next refresh would.
RETRY_SECONDS = 10.0


class Catalogues:
    """One catalogue a schema: arms with the same schema share it.

    A read that fails leaves the catalogues as they were.
    """

    def __init__(self, store: FeatureStore, metrics: Metrics) -> None:
        self._store = store
        self._metrics = metrics
        self._built: dict[tuple[str, ...], Catalogue] = {}
        self._refreshing = asyncio.Lock()
        self._stopping = threading.Event()

    async def refresh(self, arms: Iterable[Arm], *, gently: bool = True) -> bool:
        """Read all ads and build the catalogue of each arm; whether they could be read.

        `gently` leaves time to requests, and takes twice as long.
        """
        encoders = {arm.predictor.schema_digest: arm.predictor.encoder for arm in arms}
        async with self._refreshing:
            builders = {digest: CatalogueBuilder(encoder) for digest, encoder in encoders.items()}
            started = time.perf_counter()
            try:
                built = await asyncio.to_thread(self._build, builders, gently)
                outcome = "ok"
            except _Stopped:
                return False
            except Exception as error:
                outcome = "failed"
                if isinstance(error, StoreUnavailable):
                    logger.error("the ads are not refreshed: %s", error)
                else:
                    logger.exception("the ads are not refreshed")
            else:
                ads = max((len(each) for each in built.values()), default=0)
                logger.debug("read %d ads in %.1f seconds", ads, time.perf_counter() - started)
                self._built = built
            self._metrics.catalogue_refreshes.labels(outcome).inc()
            return outcome == "ok"

    def has_all(self, arms: Iterable[Arm]) -> bool:
        """Whether every arm's schema has a catalogue, an old one perhaps."""
        return all(arm.predictor.schema_digest in self._built for arm in arms)

    def stop(self) -> None:
        """End a refresh that is under way, at its next piece."""
        self._stopping.set()

    def give(self, arms: Iterable[Arm]) -> None:
        """Let arms serve what was built last; one whose schema was not among it goes on as it is."""
        for arm in arms:
            catalogue = self._built.get(arm.predictor.schema_digest)
            if catalogue is None:
                continue
            # A store of users alone has no ads: then candidates are what they bring, and none is unknown.
            arm.predictor.known_ads.catalogue = catalogue or None
            self._metrics.catalogue_ads.labels(arm.name).set(len(catalogue))

    def _build(
        self, builders: dict[tuple[str, ...], CatalogueBuilder], gently: bool
    ) -> dict[tuple[str, ...], Catalogue]:
        """In a thread."""
        began = time.perf_counter()
        for piece in self._store.ads():
            for start in range(0, len(piece), ADS_AT_ONCE):
                for builder in builders.values():
                    builder.add(piece[start : start + ADS_AT_ONCE])
                if self._stopping.is_set():
                    raise _Stopped
                if gently:
                    time.sleep((time.perf_counter() - began) * RESTING_SHARE / (1.0 - RESTING_SHARE))
                    began = time.perf_counter()
        refused = sum(builder.refused for builder in builders.values())
        if refused:
            logger.error("%d features of ads are left out: they are not what the schema says", refused)
        return {digest: builder.build() for digest, builder in builders.items()}


class _Stopped(Exception):
    """The service ends."""
