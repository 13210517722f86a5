"""The store of an address. A store's library is imported only for an address that needs it."""

from __future__ import annotations

from service.errors import BadConfiguration
from service.features.store import FeatureStore, FeatureWriter


def store_at(url: str) -> FeatureStore:
    """The store at `url`, not yet opened; raises BadConfiguration."""
    scheme = url.partition(":")[0]
    if scheme == "lmdb":
        from service.features.lmdb import LmdbStore, folder_of

        return LmdbStore(folder_of(url))
    from service.features.redis import RedisAddress, RedisStore

    return RedisStore(RedisAddress.parse(url))


def check_address(url: str) -> None:
    """Raises BadConfiguration for an address that is none, or a folder that is not there.

    Only whoever starts a service is told: later it serves without a folder that has gone.
    """
    store_at(url)
    if url.partition(":")[0] == "lmdb":
        from service.features.lmdb import folder_of

        folder = folder_of(url)
        if not folder.is_dir():
            raise BadConfiguration(
                f"'feature_store' must be a folder that is there (got {str(folder)!r}); fill it with "
                "python -m service.load_features"
            )


def check_redis(url: str, setting: str) -> None:
    """Raises BadConfiguration for the value of a `setting` that is no address of a Redis."""
    from service.features.redis import RedisAddress

    RedisAddress.parse(url, setting)


def writer_at(url: str, kind: str) -> FeatureWriter:
    """A writer of `kind`, users or ads, into the store at `url`; raises BadConfiguration."""
    if url.partition(":")[0] == "lmdb":
        from service.features.lmdb import LmdbWriter, folder_of

        return LmdbWriter(folder_of(url), kind)
    from service.features.redis import RedisAddress, RedisAdsWriter, RedisUsersWriter

    address = RedisAddress.parse(url)
    return RedisUsersWriter(address) if kind == "users" else RedisAdsWriter(address)
