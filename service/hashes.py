"""Hashes of keys, the same in every process and on every machine; it does not know what they decide.

By the native core where it was built, else by hashlib. Both give the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b

from service.bundle.native import IS_BUILT, _native

# The largest float64 below 1: the largest hash would be rounded up to 1.
_BELOW_ONE = 1.0 - 2.0**-53


class KeyHash:
    """Hashes of keys that follow a salt and a name; those of another `person` are independent of them.

    No name has a zero byte, so no two pairs have the same hashes. `uniform` is a key's hash as a number in
    the open interval (0, 1).
    """

    def __init__(self, salt: str, name: str, person: bytes = b"") -> None:
        prefix = f"{salt}\0{name}\0".encode("utf-8", "surrogatepass")
        # Not zlib.crc32: for keys of one length, two salts differ by one XOR, so the splits would correlate.
        self._seeded = blake2b(prefix, digest_size=8, person=person)
        self.uniform: Callable[[str], float] = self.python_uniform
        if IS_BUILT:
            self.uniform = _native.KeyHash(prefix, person).uniform

    def python_uniform(self, key: str) -> float:
        """What `uniform` gives, by hashlib."""
        hashed = self._seeded.copy()
        hashed.update(key.encode("utf-8", "surrogatepass"))
        return uniform_of_bytes(hashed.digest())


def uniform_of_bytes(digest: bytes) -> float:
    """The 8 bytes of a hash as a number in the open interval (0, 1)."""
    return min(((int.from_bytes(digest, "big") >> 11) + 0.5) * 2.0**-53, _BELOW_ONE)
