"""Reads a file of LMDB by system calls, without mapping it; it knows neither users nor ads.

A process that reads a mapped file dies when somebody cuts that file short, or when the disk fails (SIGBUS),
and LMDB's own library trusts what its pages say. Here a page is read and then checked, so that whatever
happens to the file is an error of one read: docs/decisions/lmdb.md has what that costs.

Source: the structures in mdb.c of LMDB 0.9. Numbers have the byte order of the machine that wrote them.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path
from struct import Struct, unpack_from
from typing import Final

# Of a page: its own number, flags, and where its free space begins and ends. Behind it, the offsets of nodes.
_PAGE: Final = Struct("=QHHHH")
# Of a node: two halves of the size of its value (of a branch: two parts of a page's number), flags (the third
# part), and the size of its key, which follows.
_NODE: Final = Struct("=HHHH")
_KEY_SIZE: Final = Struct("=H")
_PAGE_NUMBER: Final = Struct("=Q")
# Behind the header of the first two pages: magic number and version; of the databases "free" and "main": page
# size or padding, flags, depth, three counts of pages, entries and root; last page, and transaction.
_META: Final = Struct("=II16xIHH5QIHH5QQQ")
_MAGIC, _VERSION = 0xBEEFC0DE, 1
_BRANCH, _LEAF, _OVERFLOW = 0x01, 0x02, 0x04
_IN_PAGES_OF_ITS_OWN = 0x01
_PAGE_SIZES = tuple(1 << bits for bits in range(9, 17))
_MOST_LEVELS = 32
# Branch pages are kept as lists, up to as many; those of about twenty million users.
_KEPT_BRANCHES = 8192
# Paths to a leaf that are checked before a file is used.
_PATHS_CHECKED = 64


class DamagedFile(OSError):
    """The file is not what LMDB writes, or not whole; the message is one line."""


def identity_of(status: os.stat_result) -> tuple[int, ...]:
    """What distinguishes a file from its successor, and from itself once something was written into it."""
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size


class LmdbFile:
    """A file that nobody is meant to write to any more. Raises OSError, DamagedFile among them.

    `entries` is the number of its keys. One thread reads at a time. What is read counts only if the file
    `is_unchanged` afterwards.
    """

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if hasattr(os, "posix_fadvise"):
                # Reading ahead would fill the memory with values that no request needs.
                os.posix_fadvise(self._file, 0, 0, os.POSIX_FADV_RANDOM)
            self.identity = identity_of(os.fstat(self._file))
            self._page_size, self._last_page, self._depth, self.entries, self._root = self._read_meta()
            self._page = bytearray(self._page_size)
            self._buffers = [self._page]
            self._branches: dict[int, tuple[list[bytes], list[int]]] = {}
            if self.entries:
                for number in range(_PATHS_CHECKED):
                    self._check_path((number + 0.5) / _PATHS_CHECKED)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close it; it cannot be read any more."""
        os.close(self._file)

    @property
    def is_unchanged(self) -> bool:
        """Whether nobody has written to it since it was opened."""
        found = os.fstat(self._file)
        return found.st_mtime_ns == self.identity[2] and found.st_size == self.identity[3]

    def get(self, key: bytes) -> bytes | None:
        """The value of `key`, None where it has none. Raises OSError."""
        if not self.entries:
            return None
        number = self._root
        for _ in range(self._depth):
            branch = self._branches.get(number)
            if branch is None:
                is_leaf, lower, upper = self._read_page(number)
                if is_leaf:
                    return self._find(key, lower, upper)
                branch = self._branch(number, lower)
                if len(self._branches) < _KEPT_BRANCHES:
                    self._branches[number] = branch
            borders, children = branch
            number = children[bisect_right(borders, key)]
        raise DamagedFile("it is not an LMDB file, or damaged: it has more levels than it says")

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """All keys and their values, in the order of the keys. Raises OSError."""
        waiting = [self._root] if self.entries else []
        pages = found = 0
        while waiting:
            number = waiting.pop()
            is_leaf, lower, _ = self._read_page(number)
            pages += 1
            if pages > self._last_page:
                raise DamagedFile("it is damaged: its pages name each other in a circle")
            if is_leaf:
                page = bytes(self._page)
                nodes = [self._node(page, offset) for offset in self._offsets(lower)]
                found += len(nodes)
                yield from nodes
            else:
                waiting += reversed(self._branch(number, lower)[1])
        if found != self.entries:
            raise DamagedFile(f"it is damaged: it says {self.entries} entries and has {found}")

    def _read_meta(self) -> tuple[int, int, int, int, int]:
        """Size and last number of pages, levels, entries and the root of the last whole transaction."""
        size = self.identity[-1]
        page_size, _ = self._one_meta(0)
        if page_size not in _PAGE_SIZES:
            raise DamagedFile(f"it is not an LMDB file: its pages have {page_size} bytes")
        _, (flags, depth, entries, root, last_page, _) = max(
            (self._one_meta(0), self._one_meta(page_size)), key=lambda meta: meta[1][-1]
        )
        if flags or not 0 <= depth <= _MOST_LEVELS or (entries and not depth):
            raise DamagedFile("it is not a file of users or ads: its database is of another kind")
        if size < (last_page + 1) * page_size:
            raise DamagedFile(f"it is incomplete: it has {size:,} of {(last_page + 1) * page_size:,} bytes")
        return page_size, last_page, depth, entries, root

    def _one_meta(self, start: int) -> tuple[int, tuple[int, int, int, int, int, int]]:
        """The size of pages; flags, levels, entries, root, last page and number of the transaction."""
        data = os.pread(self._file, _PAGE.size + _META.size, start)
        if len(data) < _PAGE.size + _META.size:
            raise DamagedFile("it is not an LMDB file, or incomplete")
        magic, version, page_size, *_, flags, depth, _, _, _, entries, root, last_page, transaction = (
            _META.unpack_from(data, _PAGE.size)
        )
        if magic != _MAGIC:
            raise DamagedFile("it is not an LMDB file, or incomplete")
        if version != _VERSION:
            raise DamagedFile(f"it must be of LMDB's format {_VERSION} (got {version}); load it again")
        return page_size, (flags, depth, entries, root, last_page, transaction)

    def _check_path(self, fraction: float) -> None:
        """Read the pages down to one leaf, `fraction` of the way through the keys. Raises OSError."""
        number = self._root
        for _ in range(self._depth):
            is_leaf, lower, _ = self._read_page(number)
            if is_leaf:
                return
            children = self._branch(number, lower)[1]
            fraction *= len(children)
            number = children[int(fraction)]
            fraction %= 1.0
        raise DamagedFile("it is damaged: it has more levels than it says")

    def _read_page(self, number: int) -> tuple[bool, int, int]:
        """Read a page of nodes: whether it is a leaf, and the ends of its offsets and of its free space."""
        size = self._page_size
        if number > self._last_page or os.preadv(self._file, self._buffers, number * size) != size:
            raise DamagedFile(f"it is damaged: page {number} is not there")
        found, _, flags, lower, upper = _PAGE.unpack_from(self._page)
        if found != number or flags & (_BRANCH | _LEAF) not in (_BRANCH, _LEAF):
            raise DamagedFile(f"it is damaged: page {number} is none of its nodes")
        if not _PAGE.size <= lower <= upper <= size:
            raise DamagedFile(f"it is damaged: page {number} ends before it begins")
        return bool(flags & _LEAF), lower, upper

    def _offsets(self, lower: int) -> tuple[int, ...]:
        """Where the nodes of the page begin that was read last."""
        return unpack_from(f"={(lower - _PAGE.size) // 2}H", self._page, _PAGE.size)

    def _branch(self, number: int, lower: int) -> tuple[list[bytes], list[int]]:
        """The page that was read last, `number`: n - 1 borders between the keys of n children."""
        page, keys, children = bytes(self._page), [], []
        for offset in self._offsets(lower):
            low, high, highest, key_size = self._head(page, offset)
            start = offset + _NODE.size
            keys.append(page[start : start + key_size])
            children.append(low | high << 16 | highest << 32)
        if not children:
            raise DamagedFile(f"it is damaged: page {number} has no node")
        return keys[1:], children

    def _find(self, key: bytes, lower: int, upper: int) -> bytes | None:
        """The value of `key` in the leaf that was read last."""
        page, wanted = self._page, _KEY_SIZE.pack(len(key)) + key
        start = page.find(wanted, upper)
        while start >= 0:
            offset = start + _KEY_SIZE.size - _NODE.size
            # The same bytes may stand in a value, or be left of a node that is gone.
            if offset in self._offsets(lower):
                return self._value(page, offset)
            start = page.find(wanted, start + 1)
        return None

    def _head(self, page: bytes | bytearray, offset: int) -> tuple[int, int, int, int]:
        """The numbers of the node at `offset`, whose key is inside the page."""
        if offset + _NODE.size <= len(page):
            numbers: tuple[int, int, int, int] = _NODE.unpack_from(page, offset)
            if offset + _NODE.size + numbers[3] <= len(page):
                return numbers
        raise DamagedFile("it is damaged: a node is outside its page")

    def _node(self, page: bytes, offset: int) -> tuple[bytes, bytes]:
        """The key and the value of the node of a leaf at `offset`."""
        start = offset + _NODE.size
        return page[start : start + self._head(page, offset)[3]], self._value(page, offset)

    def _value(self, page: bytes | bytearray, offset: int) -> bytes:
        """The value of the node of a leaf at `offset`."""
        low, high, flags, key_size = self._head(page, offset)
        start, size = offset + _NODE.size + key_size, low | high << 16
        if not flags and start + size <= len(page):
            return bytes(page[start : start + size])
        if flags == _IN_PAGES_OF_ITS_OWN and start + _PAGE_NUMBER.size <= len(page):
            return self._large_value(_PAGE_NUMBER.unpack_from(page, start)[0], size)
        raise DamagedFile("it is damaged: a value is outside its page, or of another kind")

    def _large_value(self, number: int, size: int) -> bytes:
        """A value that has pages of its own, from page `number` on."""
        if number > self._last_page or size > self.identity[-1]:
            raise DamagedFile(f"it is damaged: page {number} is not there")
        data = os.pread(self._file, _PAGE.size + size, number * self._page_size)
        if len(data) != _PAGE.size + size:
            raise DamagedFile(f"it is damaged: page {number} is not there")
        found, _, flags, _, _ = _PAGE.unpack_from(data)
        if found != number or not flags & _OVERFLOW:
            raise DamagedFile(f"it is damaged: page {number} is no value")
        return data[_PAGE.size :]
