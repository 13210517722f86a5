"""Features in LMDB: a folder with users.lmdb and ads.lmdb, each replaced as a whole and never changed.

All workers of a machine read the same pages of the system's cache, which needs no thread and no timeout. A
read that waits for the disk blocks the event loop: the file should fit in memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, Self
from urllib.parse import unquote, urlsplit

from service.bundle.folders import sync_to_disk
from service.errors import BadConfiguration
from service.features.lmdb_file import LmdbFile, identity_of
from service.features.store import (
    UNREAD,
    LossLimit,
    LossRefused,
    StoreUnavailable,
    Values,
    key_of,
    missing_library,
)

try:
    import lmdb
except ModuleNotFoundError:
    raise missing_library("lmdb") from None

logger = logging.getLogger("bidlight")

MAX_KEY_BYTES = 511
FIRST_MAP_BYTES = 1 << 30
ADS_IN_A_BATCH = 64


def folder_of(url: str) -> Path:
    """The folder that `lmdb:///absolute` or `lmdb:relative` names; raises BadConfiguration."""
    parts = urlsplit(url)
    if parts.netloc or not parts.path or parts.query:
        raise BadConfiguration(
            f"'feature_store' must be lmdb:///FOLDER or lmdb:FOLDER (got {url!r}); three slashes begin an "
            "absolute path"
        )
    return Path(unquote(parts.path))


class LmdbStore:
    """The files of one folder, which a load replaces and nobody writes into; they may be absent for a while.

    A file that somebody writes into all the same is left at once, and opened again when it is whole.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / "users.lmdb"
        self._users: LmdbFile | None = None
        self.needs_refresh = False

    async def open(self) -> None:
        """Open the users, if there is a file."""
        try:
            await self.refresh(LossLimit())
        except StoreUnavailable as error:
            logger.error("%s", error)
            self.needs_refresh = True

    async def close(self) -> None:
        """Close the users."""
        self._use(None)

    async def refresh(self, limit: LossLimit) -> bool:
        """Open the current file of users, if it is another one than before; whether it is."""
        self.needs_refresh = False
        before = None if self._users is None else self._users.identity
        try:
            found = await asyncio.to_thread(_opened_anew, self._path, before)
        except OSError as error:
            raise StoreUnavailable(f"the users in {self._path} cannot be read: {error}") from None
        if found is None:
            return False
        try:
            limit.check("users", 0 if self._users is None else self._users.entries, found.entries)
        except LossRefused:
            found.close()
            raise
        self._use(found)
        return True

    def _use(self, users: LmdbFile | None) -> None:
        if self._users is not None:
            self._users.close()
        self._users = users

    def read_users(self, user_ids: Sequence[str], then: Callable[[Values], None]) -> None:
        """Read them at once."""
        then(self._read([key_of(user_id) for user_id in user_ids]))

    def _read(self, keys: list[bytes]) -> Values:
        users = self._users
        if users is None:
            return None
        values = [self._value(users, key) for key in keys]
        if users.is_unchanged:
            return values
        logger.error(
            "the users in %s are missing: somebody writes into the file; it is read again when it is whole. "
            "Replace it by renaming another one into its place",
            self._path,
        )
        self._use(None)
        self.needs_refresh = True
        return None

    def _value(self, users: LmdbFile, key: bytes) -> bytes | None:
        try:
            return users.get(key)
        except OSError as error:
            logger.error("a user in %s cannot be read: %s", self._path, error)
            return UNREAD

    def ads(self) -> Iterator[list[tuple[str, bytes]]]:
        """All ads, in the order of their ids' bytes; none where there is no file."""
        path = self._folder / "ads.lmdb"
        try:
            file = LmdbFile(path)
        except FileNotFoundError:
            if self._folder.is_dir():
                return
            raise StoreUnavailable(f"the ads in {path} cannot be read: there is no such folder") from None
        except OSError as error:
            raise StoreUnavailable(f"the ads in {path} cannot be read: {error}") from None
        try:
            with closing(file):
                items = file.items()
                while batch := list(islice(items, ADS_IN_A_BATCH)):
                    yield [(key.decode("utf-8", "surrogatepass"), value) for key, value in batch]
                if not file.is_unchanged:
                    raise StoreUnavailable(f"the ads in {path} were written into while they were read")
        except (OSError, UnicodeDecodeError) as error:
            raise StoreUnavailable(f"the ads in {path} cannot be read: {error}") from None


class LmdbWriter:
    """Writes a new file beside the old one and replaces that at the end; an exception leaves it as it was.

    `kind` is users or ads; the file grows beyond `first_map_bytes` as it needs.
    """

    is_undone: ClassVar[bool] = True
    longest_key: ClassVar[int | None] = MAX_KEY_BYTES

    def __init__(self, folder: Path, kind: str, first_map_bytes: int = FIRST_MAP_BYTES) -> None:
        self._path = folder / f"{kind}.lmdb"
        self._first_map_bytes = first_map_bytes
        self._partial = folder / f".{kind}.lmdb.{os.getpid()}"
        self._environment: Any = None

    def __enter__(self) -> Self:
        """Create an empty file."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._partial.unlink(missing_ok=True)
            self._environment = lmdb.open(
                str(self._partial), subdir=False, lock=False, map_size=self._first_map_bytes, sync=False
            )
        except (OSError, lmdb.Error) as error:
            raise StoreUnavailable(f"{self._path} cannot be written: {error}") from None
        return self

    def write(self, rows: Sequence[tuple[str, bytes]]) -> None:
        """Add rows; raises BadConfiguration for an id that is no key, StoreUnavailable for a full disk."""
        keyed = [(key_of(name), value) for name, value in rows]
        for key, _ in keyed:
            if not 0 < len(key) <= MAX_KEY_BYTES:
                raise BadConfiguration(
                    f"an id must be 1 to {MAX_KEY_BYTES} bytes of UTF-8 (got {len(key)}, {key[:40]!r})"
                )
        while True:
            try:
                with self._environment.begin(write=True) as transaction:
                    for key, value in keyed:
                        transaction.put(key, value)
                return
            except lmdb.MapFullError:
                self._environment.set_mapsize(2 * self._environment.info()["map_size"])
            except lmdb.Error as error:
                raise StoreUnavailable(f"{self._path} cannot be written: {error}") from None

    def __exit__(self, *exception: object) -> None:
        """Replace the old file when the new one is on disk."""
        try:
            if exception[0] is None:
                self._environment.sync(True)
            self._environment.close()
            if exception[0] is None:
                self._partial.chmod(stat.S_IRUSR | stat.S_IWUSR | stat.S_IRGRP | stat.S_IROTH)
                self._partial.replace(self._path)
                sync_to_disk(self._path.parent)
        except (OSError, lmdb.Error) as error:
            raise StoreUnavailable(f"{self._path} cannot be written: {error}") from None
        finally:
            with contextlib.suppress(OSError):
                self._partial.unlink(missing_ok=True)


def _opened_anew(path: Path, before: tuple[int, ...] | None) -> LmdbFile | None:
    """The file, unless it is the one from `before` or is not there. Raises OSError."""
    try:
        return None if identity_of(path.stat()) == before else LmdbFile(path)
    except FileNotFoundError:
        if path.parent.is_dir():
            return None
        raise
