"""Bearer tokens (RFC 6750) from a file, and whether a request has one of them; it knows no route."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from functools import partial
from hmac import compare_digest

from service.entries import read_entries
from service.errors import BadConfiguration

# The characters that RFC 6750 allows; a shorter token could be guessed.
_TOKEN = re.compile(rb"[A-Za-z0-9._~+/-]+=*")
MIN_CHARACTERS = 16
_SCHEME = b"bearer "


class Tokens:
    """Tokens of which a request needs one; several, so that a new one is known before the old one goes."""

    def __init__(self, tokens: Iterable[bytes]) -> None:
        self._digests = tuple(map(_digest, tokens))

    def accept(self, authorization: bytes | None) -> bool:
        """Whether the value of an `Authorization` header has one of them.

        The time it takes tells nothing of the tokens: digests are compared, all of them, and in full.
        """
        if authorization is None or authorization[: len(_SCHEME)].lower() != _SCHEME:
            return False
        found, is_known = _digest(authorization[len(_SCHEME) :].strip()), False
        for digest in self._digests:
            is_known |= compare_digest(found, digest)
        return is_known


def read_tokens(file: str, setting: str = "token_file") -> Tokens | None:
    """The tokens of a file, a line each, without empty lines and those that begin with `#`.

    None without a file. Raises BadConfiguration, which names the setting; its message holds no token.
    """
    if not file:
        return None
    refusal = partial(_refusal, setting)
    tokens = []
    for number, line in read_entries(file, refusal):
        if not _TOKEN.fullmatch(line) or len(line) < MIN_CHARACTERS:
            raise refusal(
                f"a file of tokens of {MIN_CHARACTERS} letters, digits and -._~+/ or more, a line each "
                f"(got another line {number} in {file!r})",
            )
        tokens.append(line)
    if not tokens:
        raise refusal(f"a file of one token or more (got none in {file!r})")
    return Tokens(tokens)


def _digest(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()


def _refusal(setting: str, expected: str) -> BadConfiguration:
    return BadConfiguration(f"'{setting}' must be {expected}; make a token with: openssl rand -hex 32")
