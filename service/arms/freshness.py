"""The feature store at work in a service: opened before traffic, kept fresh while it lasts, closed after it.

It knows when things are read; what is read is known to `user_features` and `catalogues`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence

from service.arms.catalogues import RETRY_SECONDS, Catalogues
from service.arms.split import Arm
from service.errors import BadConfiguration
from service.features.open import store_at
from service.features.users import UserFeatures
from service.metrics.families import Metrics
from service.settings import Settings


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
        """Connect and read the ads for `arms`. What does not work is tried again later."""
        await self._store.open()
        self._is_fresh = await self._catalogues.refresh(arms, gently=False)
        self._catalogues.give(arms)

    async def reopen(self, arms: Sequence[Arm]) -> None:
        """Read what is there now, for arms that will serve; raises BadConfiguration if they had no ads."""
        self._store.refresh()
        self._is_fresh = await self._catalogues.refresh(arms)
        if not self._is_fresh and not self._catalogues.has_all(arms):
            raise BadConfiguration("the ads cannot be read from the feature store for another schema")
        self._catalogues.give(arms)

    def keep_fresh(self, serving: Callable[[], Sequence[Arm]]) -> None:
        """Read again now and then, until `close`, for the arms that are `serving` then."""
        self._refreshing = asyncio.create_task(self._refresh_forever(serving))

    async def close(self) -> None:
        """Let requests that wait for their users go on, then let go of the store."""
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
        """Seconds to the next refresh, or to the next look whether one is due."""
        if not self._is_fresh or not self._refresh_seconds:
            return min(RETRY_SECONDS, self._refresh_seconds or RETRY_SECONDS)
        return float(self._refresh_seconds)
