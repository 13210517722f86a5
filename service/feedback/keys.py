"""The keys of tokens, from a file: the first one signs, each verifies; it knows no token."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from service.entries import read_entries
from service.errors import BadConfiguration

KEYS = 16
"""Numbers of keys: 0 to 15."""
_LINE = re.compile(rb"([0-9]{1,2})[ \t]+([0-9A-Fa-f]{32})")


@dataclass(frozen=True)
class Key:
    """A key of 16 bytes, and the number by which a token names it."""

    number: int
    secret: bytes = field(repr=False)


def read_keys(file: str) -> tuple[Key, ...]:
    """The keys of a file, a line `NUMBER HEX` each, without empty lines and those that begin with `#`.

    Empty without a file. Raises BadConfiguration; its message holds no key.
    """
    if not file:
        return ()
    keys: dict[int, Key] = {}
    for place, line in read_entries(file, _refusal):
        found = _LINE.fullmatch(line)
        number = KEYS if found is None else int(found[1])
        if found is None or number >= KEYS:
            raise _refusal(
                f"a file of keys, a number from 0 to {KEYS - 1} and 32 hexadecimal digits a line "
                f"(got another line {place} in {file!r})"
            )
        if number in keys:
            raise _refusal(f"a file of keys with numbers of their own (got {number} twice in {file!r})")
        keys[number] = Key(number, bytes.fromhex(found[2].decode()))
    if not keys:
        raise _refusal(f"a file of one key or more (got none in {file!r})")
    return tuple(keys.values())


def _refusal(expected: str) -> BadConfiguration:
    return BadConfiguration(f"'feedback_keys' must be {expected}; make a key with: openssl rand -hex 16")
