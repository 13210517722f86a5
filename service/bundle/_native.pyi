"""The native core (native/module.cpp), which is there where it was built."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Buffer

LONGEST_RUN: int
"""The longest run of slots in a vocabulary that `check` accepts."""

class Vocabulary:
    """Values and their ids, packed."""

    @staticmethod
    def pack(values: tuple[str, ...], ids: NDArray[np.int32] | None, seed: int) -> Vocabulary:
        """Values, which are unique and not empty; without `ids` [values] they are 2, 3, ..."""
    @staticmethod
    def open(memory: Buffer, offset: int, /) -> Vocabulary:
        """One that was packed into `memory` from `offset` on, which it keeps. Raises ValueError."""
    def check(self, ids: NDArray[np.int32] | None) -> None:
        """Raises ValueError unless it is whole, and gives its values `ids` [values], or 2, 3, ..."""
    def find(self, text: str, /) -> int:
        """The id of a text that is not empty; 1 where it is none of the values."""
    def __len__(self) -> int: ...
    def __bytes__(self) -> bytes: ...
    @property
    def values(self) -> tuple[str, ...]:
        """As new strings, in the order in which they were packed."""
    @property
    def longest_run(self) -> int:
        """The most slots that a look-up reads, whatever the text."""
    @property
    def nbytes(self) -> int:
        """Bytes of memory."""

class MappedFile(Buffer):
    """An open file in memory, read-only and shared; pages that are gone later read as zeros."""

    def __init__(self, descriptor: int, size: int) -> None: ...
    @property
    def is_whole(self) -> bool:
        """Whether no page was gone that was read."""

class Encoder:
    """Fields added in the order of their columns, then finished. `length` is 0 for a field with one value."""

    def add_vocabulary(
        self, is_candidate: bool, name: str, length: int, vocabulary: Vocabulary, /
    ) -> None: ...
    def add_hashing(
        self,
        is_candidate: bool,
        name: str,
        length: int,
        buckets: int,
        seed: int,
        renumbering: NDArray[np.int32] | None,
    ) -> None:
        """`renumbering` is of all base ids."""
    def add_bins(
        self, is_candidate: bool, name: str, edges: NDArray[np.float64], ids: NDArray[np.int32], /
    ) -> None:
        """`ids` has one more element than `edges`."""
    def finish(self, seed: int, /) -> None: ...
    def encode_columns(self, table: Any, texts: list[Any], ids: NDArray[np.int32], /) -> bool:
        """Writes `ids` [rows, columns] of a table whose columns are the fields, named and in order.

        A column of numbers of texts has these texts in `texts` [fields], which has None for any other. Tables
        and columns have Arrow's `__arrow_c_stream__`. Returns False if a type or a value is not plain.
        """

    user_id_field: int | None
    """The number of the context field that a request's own user_id fills unless the context has it."""

class Catalogue:
    """The arrays of a catalogue of ads."""

    def __init__(
        self,
        starts: NDArray[np.int32],
        hashes: NDArray[np.uint64],
        rows: NDArray[np.int32],
        ids: NDArray[np.int32],
        shift: int,
        widest: int,
        missing_row: int,
        /,
    ) -> None: ...

class BidPolicy:
    """How pCTRs become bids; `exact` (pctr, value per click) gives whole micros where float64 does not.

    A `win_price` of 0 leaves bids linear.
    """

    def __init__(
        self,
        multiplier: float,
        cap_micros: int,
        floor: float,
        win_price: float,
        exact: Callable[[float, float], int],
        /,
    ) -> None: ...

class KeyHash:
    """Hashes of keys that follow a prefix; `person` has 16 bytes at most (service/hashes.py)."""

    def __init__(self, prefix: bytes, person: bytes, /) -> None: ...
    def uniform(self, key: str, /) -> float:
        """The hash of a key as a number in the open interval (0, 1)."""

class TokenSigner:
    """What the tokens of an arm have in common; `key` has 16 bytes."""

    def __init__(self, head: int, source: int, revision: int, key: bytes, /) -> None: ...

class PlainRequest:
    """A request that was read, and its body, which it keeps and which must not change."""

    @property
    def rows(self) -> int: ...
    @property
    def id(self) -> str | None: ...
    @property
    def user_id(self) -> str | None: ...
    @property
    def tmax_ms(self) -> float | None: ...
    @property
    def tracking(self) -> bool | None:
        """None where the request does not say."""
    @property
    def context(self) -> dict[str, Any]: ...
    def has_whole_context(self, encoder: Encoder, /) -> bool:
        """Whether it gives every context field."""
    def encode(
        self,
        encoder: Encoder,
        catalogue: Catalogue | None,
        context_ids: NDArray[np.int32] | None,
        candidate_ids: NDArray[np.int32],
        tells_names: bool = True,
    ) -> tuple[int, list[str]] | None:
        """Writes ids [context columns], if asked to, and [rows, candidate columns].

        Returns the number of unknown ads and the names that no field has, or None if the request is not plain
        to this schema. Unless it `tells_names`, there is no name, and a request may have any number of such.
        """
    def drop_features(self) -> None:
        """Frees what only `encode` needs."""
    def answer(
        self,
        pctrs: NDArray[np.float64],
        arm: bytes,
        policy: BidPolicy,
        signer: TokenSigner | None = None,
        milliseconds: int = 0,
        first: int = 0,
        own: NDArray[np.float64] | None = None,
        keys: int = 4,
    ) -> tuple[bytes, int]:
        """The body of the answer, of so many `keys`, and its number of bids; `arm` has those but the id.

        Candidates have tokens if there is a signer, made at `milliseconds` since 2020 and with numbers from
        `first` on. They say the bundle's `own` pCTRs, which are `pctrs` if left out.
        """

def number_texts(
    column: Any, numbers: NDArray[np.uint32], firsts: NDArray[np.uint32], seed: int, /
) -> int | None:
    """Numbers the distinct texts of a column in order of appearance, and returns how many there are.

    Writes `numbers` [rows], and the rows of first appearances to the beginning of `firsts` [rows]. A null's
    number is 0. Returns None for a column of something else.
    """

def siphash24(
    first: NDArray[np.uint64],
    second: NDArray[np.uint64],
    messages: NDArray[np.uint8],
    hashes: NDArray[np.uint64],
    /,
) -> None:
    """Writes the `hashes` [n] of `messages` [n, bytes] under keys of these words [n]."""

def read(
    body: bytes | bytearray, is_json: bool, max_candidates: int, max_money: float, max_tmax_ms: float, /
) -> PlainRequest | None:
    """The request in a body, or None if it is not plain."""

def count_ids(
    ids: NDArray[np.int32],
    weights: NDArray[np.int32] | None,
    missing: NDArray[np.int64],
    unknown: NDArray[np.int64],
) -> None:
    """Adds to `missing` and `unknown` [columns] how many of `ids` [rows, columns] are that.

    A row counts as many times as `weights` [rows] says.
    """

def count_values(
    values: NDArray[np.float64], bounds: NDArray[np.float64], counts: NDArray[np.int64]
) -> float:
    """Adds to `counts` [bounds] how many of `values` are at most each of the ascending bounds, and above the
    one before it, those above all with the last; returns their sum."""
