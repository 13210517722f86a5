"""The feature store of a running service: opened before traffic, read again now and then, closed after it.

It knows when things are read, and where an arm's catalogue goes; how a user is found is in features/users.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence

from service.arms.split import Arm
from service.errors import BadConfiguration
from service.features.ads import Catalogue, CatalogueBuilder
from service.features.open import store_at
from service.features.store import FeatureStore, StoreUnavailable
from service.features.users import UserFeatures
from service.metrics.families import Metrics
from service.settings import Settings

logger = logging.getLogger("bidlight")

# The share of a refresh's time that is left to requests: Python runs one thread at a time.
RESTING_SHARE = 0.5
# A request waits for the encoding of so many ads at most, about half a millisecond.
ADS_AT_ONCE = 64
# After a failure the next try comes sooner than the next refresh would.
RETRY_SECONDS = 10.0


class StoredFeatures:
    """The store of the settings; `users` finds a request's user. Raises BadConfiguration for no address."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._store = store_at(settings.feature_store)
        self._catalogues = Catalogues(self._store, metrics)
        self._refresh_seconds = settings.catalogue_refresh_seconds
        self._is_fresh = False
        self._refreshing: asyncio.Task[None] | None = None
        self.users = UserFeatures(
            self._store, settings.feature_timeout_ms * 0.001, metrics.store_read.observe
        )

    async def open(self, arms: Sequence[Arm]) -> None:
        """Connect, and read the ads for `arms`. What fails is tried again later."""
        await self._store.open()
        self._is_fresh = await self._catalogues.refresh(arms, gently=False)
        self._catalogues.give(arms)

    async def reopen(self, arms: Sequence[Arm]) -> None:
        """Read the ads again for new arms; raises BadConfiguration if that fails and they had none before."""
        self._store.refresh()
        self._is_fresh = await self._catalogues.refresh(arms)
        if not self._is_fresh and not self._catalogues.has_all(arms):
            raise BadConfiguration("the ads cannot be read from the feature store for another schema")
        self._catalogues.give(arms)

    def keep_fresh(self, serving: Callable[[], Sequence[Arm]]) -> None:
        """Read the ads again at intervals, until `close`, for the arms that are `serving` then."""
        self._refreshing = asyncio.create_task(self._refresh_forever(serving))

    async def close(self) -> None:
        """Wait until requests have their users, then close the store."""
        self._catalogues.stop()
        if self._refreshing is not None:
            self._refreshing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._refreshing
        await self.users.drain()
        await self._store.close()

    async def _refresh_forever(self, serving: Callable[[], Sequence[Arm]]) -> None:
        while True:
            await asyncio.sleep(self._pause())
            if self._is_fresh and not self._refresh_seconds:
                continue
            self._store.refresh()
            self._is_fresh = await self._catalogues.refresh(serving())
            self._catalogues.give(serving())

    def _pause(self) -> float:
        """Seconds until the next refresh, or until the next check whether one is due."""
        if not self._is_fresh or not self._refresh_seconds:
            return min(RETRY_SECONDS, self._refresh_seconds or RETRY_SECONDS)
        return float(self._refresh_seconds)


class Catalogues:
    """A catalogue for each schema, built from the ads of the store; arms with the same schema share it.

    A read that fails leaves the catalogues as they were.
    """

    def __init__(self, store: FeatureStore, metrics: Metrics) -> None:
        self._store = store
        self._metrics = metrics
        self._built: dict[tuple[str, ...], Catalogue] = {}
        self._refreshing = asyncio.Lock()
        self._stopping = threading.Event()

    async def refresh(self, arms: Iterable[Arm], *, gently: bool = True) -> bool:
        """Read all ads in a thread and build the catalogue of each arm; whether the ads could be read.

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
        """Whether there is a catalogue for every arm's schema, perhaps an old one."""
        return all(arm.predictor.schema_digest in self._built for arm in arms)

    def stop(self) -> None:
        """Stop a running refresh at its next batch of ads."""
        self._stopping.set()

    def give(self, arms: Iterable[Arm]) -> None:
        """Let the arms serve the last catalogues; an arm whose schema has none keeps what it had."""
        for arm in arms:
            catalogue = self._built.get(arm.predictor.schema_digest)
            if catalogue is None:
                continue
            # A store of users alone has no ads: then no candidate is an unknown ad.
            arm.predictor.known_ads.catalogue = catalogue or None
            self._metrics.catalogue_ads.labels(arm.name).set(len(catalogue))

    def _build(
        self, builders: dict[tuple[str, ...], CatalogueBuilder], gently: bool
    ) -> dict[tuple[str, ...], Catalogue]:
        """Runs in a thread."""
        began = time.perf_counter()
        for batch in self._store.ads():
            for start in range(0, len(batch), ADS_AT_ONCE):
                for builder in builders.values():
                    builder.add(batch[start : start + ADS_AT_ONCE])
                if self._stopping.is_set():
                    raise _Stopped
                if gently:
                    time.sleep((time.perf_counter() - began) * RESTING_SHARE / (1.0 - RESTING_SHARE))
                    began = time.perf_counter()
        refused = sum(builder.refused for builder in builders.values())
        if refused:
            logger.error("%d features of ads are left out: they do not fit the schema", refused)
        return {digest: builder.build() for digest, builder in builders.items()}


class _Stopped(Exception):
    """The service is closing."""
