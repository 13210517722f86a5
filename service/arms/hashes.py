"""Hashes of keys, the same in every process and on every machine; it does not know what they decide."""

from __future__ import annotations

from hashlib import blake2b

# The largest float64 below 1: the largest hash would be rounded up to 1.
_BELOW_ONE = 1.0 - 2.0**-53


def seeded_hash(salt: str, name: str, person: bytes = b"") -> blake2b:
    """A hash of the salt and a name, for keys to follow; that of another `person` is independent of it.

    No name has a zero byte, so no two pairs have the same hash.
    """
    # Not zlib.crc32: for keys of one length, two salts differ by one XOR, so the splits would correlate.
    return blake2b(f"{salt}\0{name}\0".encode("utf-8", "surrogatepass"), digest_size=8, person=person)


def uniform_of(hashed: blake2b) -> float:
    """The hash as a number in the open interval (0, 1)."""
    return uniform_of_bytes(hashed.digest())


def uniform_of_bytes(digest: bytes) -> float:
    """The same of the 8 bytes of a hash."""
    return min(((int.from_bytes(digest, "big") >> 11) + 0.5) * 2.0**-53, _BELOW_ONE)
