"""A `Steering` in anonymous memory that is mapped before processes are forked: one writes, all read.

    memory = version | version that each process serves ... | half | half
    half   = version, length, CRC-32 | MessagePack

The last bit of the version tells which half holds. A writer fills the other half, then counts the version up;
a reader copies the half that holds and takes the copy if the version is still the same and the checksum is
right. So nothing is locked, nobody meets half of something, and a process may be killed at any moment. What
has 8 bytes is aligned to them, so processors read and write it whole.
"""

from __future__ import annotations

import mmap
import struct
import zlib

import msgspec

from service.arms.steering import Steering

WORD, PAGE = 8, 4096
# More than an arm takes: its name, some numbers, and the words of a command.
BYTES_AN_ARM = 512

_HEAD = struct.Struct("=qqq")
_READ_ATTEMPTS = 100

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Steering).decode


class UnreadableSteering(Exception):
    """The memory holds what no process writes."""


class SteeringMemory:
    """Shared by this process and those that it forks; `processes` of them note what they serve.

    Raises OSError if there is no memory.
    """

    def __init__(self, steering: Steering, processes: int = 1) -> None:
        self._halves_at = _pages(WORD * (1 + processes))
        self._half_bytes = _pages(_HEAD.size + BYTES_AN_ARM * len(steering.arms))
        self._bytes = memoryview(mmap.mmap(-1, self._halves_at + 2 * self._half_bytes))
        self._words = self._bytes.cast("q")
        self.write(steering)

    @property
    def version(self) -> int:
        """Counts what was written."""
        return self._words[0]

    def write(self, steering: Steering) -> int:
        """Replace what is there, from the one process that does; the new version."""
        content, version = _encode(steering), self.version + 1
        assert len(content) <= self._half_bytes - _HEAD.size
        at = self._half(version)
        _HEAD.pack_into(self._bytes, at, version, len(content), zlib.crc32(content))
        self._bytes[at + _HEAD.size : at + _HEAD.size + len(content)] = content
        self._words[0] = version
        return version

    def read(self) -> tuple[int, Steering]:
        """The last version and what it holds. Raises UnreadableSteering."""
        for _ in range(_READ_ATTEMPTS):
            version = self.version
            at = self._half(version)
            copied = bytes(self._bytes[at : at + self._half_bytes])
            if self.version != version:
                continue  # what was copied may be overwritten
            written, length, checksum = _HEAD.unpack_from(copied)
            content = copied[_HEAD.size : _HEAD.size + max(0, length)]
            # A processor may show the version before what was written ahead of it.
            if written == version and zlib.crc32(content) == checksum:
                return version, _decode(content)
        raise UnreadableSteering

    def note(self, process: int, version: int) -> None:
        """A process serves a version; 0 for a process that serves none yet, or has ended."""
        self._words[1 + process] = version

    def noted(self, process: int) -> int:
        """The version that it has noted."""
        return self._words[1 + process]

    def _half(self, version: int) -> int:
        """The byte at which the half of a version begins."""
        return self._halves_at + version % 2 * self._half_bytes


def _pages(size: int) -> int:
    """As many bytes in whole pages."""
    return -(-size // PAGE) * PAGE
