"""Features in LMDB: a folder with users.lmdb and ads.lmdb, each replaced as a whole and never changed.

All workers of a machine map the same pages of the file. A read is a walk through memory, so it needs no
thread and no timeout. A read that waits for the disk blocks the event loop: the file should fit in memory.
"""

from __future__ import annotations

import contextlib
import logging
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self
from urllib.parse import unquote, urlsplit

from service.errors import BadConfiguration
from service.features.store import StoreUnavailable, Values, key_of, missing_library

try:
    import lmdb
except ModuleNotFoundError:
    raise missing_library("lmdb") from None

logger = logging.getLogger("bidlight")

MAX_KEY_BYTES = 511
FIRST_MAP_BYTES = 1 << 30
ADS_IN_A_BATCH = 64
# The magic number of LMDB, behind the header of the first page.
_MAGIC, _MAGIC_OFFSET = (0xBEEFC0DE).to_bytes(4, "little"), 16


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
    """The files of one folder, opened read-only and without locks: nobody writes to them.

    Raises BadConfiguration where there is no such folder.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise BadConfiguration(
                f"'feature_store' must be a folder that is there (got {str(folder)!r}); fill it with "
                "python -m service.load_features"
            )
        self._folder = folder
        self._users: Any = None
        self._users_file: tuple[int, ...] = ()

    async def open(self) -> None:
        """Map the users, if there is a file."""
        self.refresh()

    async def close(self) -> None:
        """Unmap the users."""
        if self._users is not None:
            self._users.close()
        self._users, self._users_file = None, ()

    def refresh(self) -> None:
        """Map the current file of users, if it is another one than before and can be read."""
        path = self._folder / "users.lmdb"
        try:
            found = _identity(path)
            if found in ((), self._users_file):
                return
            # LMDB opens a path once in a process. Nothing reads between closing and opening it.
            if self._users is not None:
                self._users.close()
            self._users, self._users_file = None, ()
            self._users, self._users_file = _open(path), found
        except (OSError, lmdb.Error) as error:
            logger.error("the users in %s cannot be read: %s", path, error)

    def read_users(self, user_ids: Sequence[str], then: Callable[[Values], None]) -> None:
        """Read them in one transaction, at once."""
        then(self._read([key_of(user_id) for user_id in user_ids]))

    def _read(self, keys: list[bytes]) -> Values:
        if self._users is None:
            return None
        try:
            with self._users.begin() as transaction:
                get = transaction.get
                # LMDB raises for a key that could not be in it.
                return [get(key) if 0 < len(key) <= MAX_KEY_BYTES else None for key in keys]
        except lmdb.Error as error:
            logger.error("the users in %s cannot be read: %s", self._folder, error)
            return None

    def ads(self) -> Iterator[list[tuple[str, bytes]]]:
        """All ads, in the order of their ids' bytes; none where there is no file."""
        path = self._folder / "ads.lmdb"
        try:
            if not _identity(path):
                return
            with _open(path) as environment, environment.begin() as transaction:
                batch: list[tuple[str, bytes]] = []
                for key, value in transaction.cursor():
                    batch.append((key.decode("utf-8", "surrogatepass"), value))
                    if len(batch) == ADS_IN_A_BATCH:
                        yield batch
                        batch = []
                yield batch
        except (OSError, UnicodeDecodeError, lmdb.Error) as error:
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
        except (OSError, lmdb.Error) as error:
            raise StoreUnavailable(f"{self._path} cannot be written: {error}") from None
        finally:
            with contextlib.suppress(OSError):
                self._partial.unlink(missing_ok=True)


def _open(path: Path) -> Any:
    # Reads are random: reading ahead would fill the memory with values that no request needs.
    return lmdb.open(str(path), subdir=False, readonly=True, lock=False, readahead=False, max_spare_txns=2)


def _identity(path: Path) -> tuple[int, ...]:
    """What distinguishes a file from its successor; empty without a file. Raises OSError for other files."""
    try:
        with path.open("rb") as file:
            head = file.read(_MAGIC_OFFSET + len(_MAGIC))
            found = os.fstat(file.fileno())
    except FileNotFoundError:
        return ()
    if head[_MAGIC_OFFSET:] != _MAGIC:
        raise OSError("it is not an LMDB file, or incomplete")
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size
