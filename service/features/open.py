"""The store of an address. A store's library is imported only for an address that needs it."""

from __future__ import annotations

from service.features.store import FeatureStore, FeatureWriter


def store_at(url: str) -> FeatureStore:
    """The store at `url`, not yet opened; raises BadConfiguration."""
    scheme = url.partition(":")[0]
    if scheme == "lmdb":
        from service.features.lmdb import LmdbStore, folder_of

        return LmdbStore(folder_of(url))
    from service.features.redis import RedisAddress, RedisStore

    return RedisStore(RedisAddress.parse(url))


def writer_at(url: str, kind: str) -> FeatureWriter:
    """A writer of `kind`, users or ads, into the store at `url`; raises BadConfiguration."""
    if url.partition(":")[0] == "lmdb":
        from service.features.lmdb import LmdbWriter, folder_of

        return LmdbWriter(folder_of(url), kind)
    from service.features.redis import RedisAddress, RedisAdsWriter, RedisUsersWriter

    address = RedisAddress.parse(url)
    return RedisUsersWriter(address) if kind == "users" else RedisAdsWriter(address)
