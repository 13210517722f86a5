"""The signers of what is served, by the first of the keys, which a reload reads again; it knows no arm."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence

from service.errors import InvalidField
from service.feedback.keys import Key, read_keys
from service.feedback.tokens import Numbers, Source, TokenReader, TokenSigner


class Signers:
    """Signers with the first key of a file, and a reader with all; without a file there are none.

    Raises BadConfiguration.
    """

    def __init__(self, file: str) -> None:
        self._file = file
        self.keys = read_keys(file)
        self.reader = TokenReader(self.keys)
        self._numbers = Numbers()
        self._sources: Mapping[Hashable, Source] = {}
        self._signers: dict[Hashable, TokenSigner] = {}

    def serve(self, sources: Mapping[Hashable, Source]) -> None:
        """Sign for these sources from now on, each by what stands for it."""
        self._sources = sources
        self._use(self.keys)

    def read_again(self) -> Callable[[], object]:
        """Read the file again; what is returned puts its keys into place. Raises BadConfiguration."""
        keys = read_keys(self._file)
        return lambda: self._use(keys)

    def check(self) -> None:
        """Raises InvalidField without keys, of a request that asks for tokens."""
        if not self.keys:
            raise InvalidField(
                "'tracking' must be false here (got true); start the service with --feedback-keys",
                path="$.tracking",
            )

    def of(self, served: Hashable) -> TokenSigner:
        """The signer of what is served. Raises InvalidField without keys."""
        self.check()
        return self._signers[served]

    def _use(self, keys: Sequence[Key]) -> None:
        self.keys, self.reader = tuple(keys), TokenReader(keys)
        self._signers = {
            served: TokenSigner(key, source, self._numbers)
            for key in self.keys[:1]
            for served, source in self._sources.items()
        }
