"""How a log writes raw values, as far as other readers of the same data need it to read the same ids.

The export reads logs by it, and files of users and ads are loaded by what the bundle keeps of it. It knows no
file.
"""

from __future__ import annotations

import re
from typing import Final, Literal

import msgspec

from service.bundle.delimited import Dialect

TextFormat = Literal["csv", "tsv"]
DEFAULT_SEPARATOR: Final = "|"
_NUMBER: Final = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_NAN: Final = re.compile(r"[+-]?nan", re.IGNORECASE)


class Spelling(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Which texts mean a missing value, what separates the elements of a sequence, and a text log's dialect.

    `separators` are those of sequence fields, `columns` those of fields that have another name than their
    column; `format`, `delimiter` and `quote` are None for a typed log. Raises ValueError for a dialect that
    no text has.
    """

    missing: tuple[str, ...] = ()
    separators: dict[str, str] = {}
    columns: dict[str, str] = {}
    format: TextFormat | None = None
    delimiter: str | None = None
    quote: str | None = None

    def __post_init__(self) -> None:
        if len({self.format is None, self.delimiter is None, self.quote is None}) > 1:
            raise ValueError("'format' must be given with 'delimiter' and 'quote', or all three left out")
        if self.delimiter is None or self.quote is None:
            return
        if len(self.delimiter.encode()) != 1 or self.delimiter in "\r\n":
            raise ValueError(f"'delimiter' must be one ASCII character (got {self.delimiter!r})")
        if self.quote and (len(self.quote.encode()) != 1 or self.quote == self.delimiter):
            raise ValueError(f"'quote' must be another ASCII character, or empty (got {self.quote!r})")

    @property
    def nan_is_missing(self) -> bool:
        """Whether a number that is not a number means a missing value: if a missing text spells one."""
        return any(_NAN.fullmatch(text) for text in self.missing)

    def dialect_of(self, format: TextFormat, default: Dialect) -> Dialect:  # noqa: A002
        """The dialect of a text file in `format`: the log's, where it had the same format."""
        if self.format != format or self.delimiter is None or self.quote is None:
            return default
        return Dialect(self.delimiter, self.quote)


def number_of(text: str) -> float | None:
    """The number that a cell holds, nan and inf among them; None for other text.

    Only what polars casts to a number too: no spaces, underscores, or digits of other scripts.
    """
    if _NUMBER.fullmatch(text) or text.lstrip("+-").lower() in {"nan", "inf", "infinity"}:
        try:
            return float(text)
        except ValueError:
            return None
    return None
