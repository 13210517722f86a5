"""The feature store of a running service: opened before traffic, read again now and then, closed after it.

It knows when things are read, and where an arm's catalogue goes; how a user is found is in features/users.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from service.arms.split import Arm
from service.errors import BadConfiguration
from service.features.ads import Catalogue, CatalogueBuilder
from service.features.known_share import KnownShare
from service.features.open import store_at
from service.features.store import FeatureStore, LossLimit, LossRefused, StoreUnavailable
from service.features.users import UserFeatures
from service.metrics.families import Metrics
from service.scoring.predictor import Predictor
from service.settings import Settings

logger = logging.getLogger("bidlight")

# The share of a refresh's time that is left to requests: Python runs one thread at a time.
RESTING_SHARE = 0.5
# A request waits for the encoding of so many ads at most, about half a millisecond.
ADS_AT_ONCE = 64
# After a failure the next try comes sooner than the next refresh would.
RETRY_SECONDS = 10.0
# Outcomes of a refresh.
OK, FAILED, REFUSED = "ok", "failed", "refused"


class StoredFeatures:
    """The store of the settings; `users` finds a request's user. Raises BadConfiguration for no address."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._store = store_at(settings.feature_store)
        self._catalogues = Catalogues(self._store, metrics)
        self._metrics = metrics
        self._refresh_seconds = settings.catalogue_refresh_seconds
        self._most_lost = settings.max_refresh_loss
        self._is_fresh = False
        self._refreshing: asyncio.Task[None] | None = None
        self._known = KnownShare(self._most_lost)
        self.users = UserFeatures(
            self._store, settings.feature_timeout_ms * 0.001, metrics.store_read.observe, self._known
        )

    async def open(self, arms: Sequence[Arm]) -> None:
        """Connect, and read the ads for `arms`. What fails is tried again later."""
        await self._store.open()
        self._is_fresh = await self._catalogues.refresh(arms, LossLimit(), gently=False)
        self._catalogues.give(arms)
        if self._is_fresh and self._catalogues.is_empty:
            logger.warning("the feature store has no ads: candidates have the features that requests give")

    async def reopen(self, arms: Sequence[Arm]) -> None:
        """Read the store again for new arms, whatever it has lost.

        Raises BadConfiguration if the ads cannot be read and the arms had none before.
        """
        self._known.forget()
        is_read = await self._refresh(arms, LossLimit(self._most_lost, is_asked_for=True))
        if not is_read and not self._catalogues.has_all(arms):
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
        seconds = self._refresh_seconds or math.inf
        due = time.monotonic() + seconds
        while True:
            await asyncio.sleep(min(RETRY_SECONDS, due - time.monotonic()))
            if time.monotonic() >= due or not self._is_fresh or self._store.needs_refresh:
                await self._refresh(serving(), LossLimit(self._most_lost))
                self._catalogues.give(serving())
                due = time.monotonic() + seconds

    async def _refresh(self, arms: Sequence[Arm], limit: LossLimit) -> bool:
        """Look for other users, and read the ads again; whether the ads could be read."""
        try:
            if await self._store.refresh(limit):
                self._metrics.user_refreshes.labels(OK).inc()
            has_users = True
        except Exception as error:  # of any kind: the next refresh must still be possible
            self._metrics.user_refreshes.labels(_told_failure("users", error)).inc()
            has_users = False
        has_ads = await self._catalogues.refresh(arms, limit)
        self._is_fresh = has_users and has_ads
        return has_ads


class Catalogues:
    """A catalogue for each schema, built from the ads of the store; arms with the same schema share it.

    A read that fails, or that would lose too much, leaves the catalogues as they were.
    """

    def __init__(self, store: FeatureStore, metrics: Metrics) -> None:
        self._store = store
        self._metrics = metrics
        self._built: dict[tuple[str, ...], Catalogue] = {}
        self._read_at = 0.0
        self._refreshing = asyncio.Lock()
        self._stopping = threading.Event()

    async def refresh(self, arms: Iterable[Arm], limit: LossLimit, *, gently: bool = True) -> bool:
        """Read all ads in a thread and build the catalogue of each arm; whether these are to be served.

        `gently` leaves time to requests, and takes twice as long.
        """
        predictors = [arm.predictor for arm in arms]
        encoders = {predictor.schema_digest: predictor.encoder for predictor in predictors}
        async with self._refreshing:
            builders = {digest: CatalogueBuilder(encoder) for digest, encoder in encoders.items()}
            started, read_at = time.perf_counter(), time.time()
            try:
                built = await asyncio.to_thread(self._build, builders, predictors, gently)
                self._check_loss(built, limit)
                outcome = OK
            except _Stopped:
                return False
            except Exception as error:
                outcome = _told_failure("ads", error)
            else:
                ads = max((len(each) for each in built.values()), default=0)
                logger.debug("read %d ads in %.1f seconds", ads, time.perf_counter() - started)
                self._built, self._read_at = built, read_at
            self._metrics.catalogue_refreshes.labels(outcome).inc()
            return outcome == OK

    @property
    def is_empty(self) -> bool:
        """Whether arms have candidate fields, and no catalogue has an ad for them."""
        return any(each.ids.shape[1] for each in self._built.values()) and not any(self._built.values())

    def has_all(self, arms: Iterable[Arm]) -> bool:
        """Whether there is a catalogue for every arm's schema, perhaps an old one."""
        return all(arm.predictor.schema_digest in self._built for arm in arms)

    def stop(self) -> None:
        """Stop a running refresh at its next batch of ads."""
        self._stopping.set()

    def give(self, arms: Iterable[Arm]) -> None:
        """Let the arms serve the last catalogues.

        An arm whose schema has none keeps what it had, or serves one without any ad, so that what requests
        lack is counted.
        """
        for arm in arms:
            encoder, known_ads = arm.predictor.encoder, arm.predictor.known_ads
            catalogue = self._built.get(arm.predictor.schema_digest, known_ads.catalogue)
            if catalogue is None:
                catalogue = CatalogueBuilder(encoder).build()
            if encoder.candidate_names:
                known_ads.catalogue = catalogue
            self._metrics.catalogue_ads.labels(arm.name).set(len(catalogue))
            if arm.predictor.schema_digest in self._built:
                self._metrics.catalogue_read.labels(arm.name).set(self._read_at)

    def _check_loss(self, built: Mapping[tuple[str, ...], Catalogue], limit: LossLimit) -> None:
        """Raises LossRefused. Ads whose values an arm no longer knows are as good as gone."""
        for digest, catalogue in built.items():
            before = self._built.get(digest)
            if before is not None:
                limit.check("ads", len(before), len(catalogue))
                limit.check("known values of ads", before.known_values, catalogue.known_values)

    def _build(
        self,
        builders: dict[tuple[str, ...], CatalogueBuilder],
        predictors: Sequence[Predictor],
        gently: bool,
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
        unreadable = max((builder.unreadable for builder in builders.values()), default=0)
        if unreadable:
            logger.error("%d ads are left out: their values cannot be read", unreadable)
        refused = sum(builder.refused for builder in builders.values())
        if refused:
            logger.error("%d features of ads are left out: they do not fit the schema", refused)
        built = {digest: builder.build() for digest, builder in builders.items()}
        for predictor in predictors:
            predictor.prepare(built[predictor.schema_digest])
        return built


def _told_failure(what: str, error: Exception) -> str:
    """Log why a refresh changed nothing; how that is counted."""
    unexpected = None if isinstance(error, StoreUnavailable) else error
    logger.error("the %s are not refreshed: %s", what, error, exc_info=unexpected)
    return REFUSED if isinstance(error, LossRefused) else FAILED


class _Stopped(Exception):
    """The service is closing."""
