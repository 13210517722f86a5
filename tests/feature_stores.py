"""Feature stores in tests: filled by their writers, and read back."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from service.features.open import store_at, writer_at
from service.features.store import FeatureStore, Values


def fill(url: str, kind: str, rows: Mapping[str, bytes]) -> None:
    """Load users or ads, their values by id, in several writes."""
    entries = list(rows.items())
    with writer_at(url, kind) as writer:
        for start in range(0, len(entries), 100):
            writer.write(entries[start : start + 100])


def ads_of(url: str) -> dict[str, bytes]:
    """The values of all ads by id."""
    return {name: value for batch in store_at(url).ads() for name, value in batch}


async def read(store: FeatureStore, *user_ids: str) -> Values:
    """The values of users in an open store."""
    future: asyncio.Future[Values] = asyncio.get_running_loop().create_future()
    store.read_users(user_ids, future.set_result)
    return await asyncio.wait_for(future, 5.0)
