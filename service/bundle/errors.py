"""The two errors of the contract, a bundle and a value that are refused; it knows no file format."""

from __future__ import annotations

from typing import TypeVar

import msgspec

MAX_CHARACTERS = 120
MAX_PART = 400
EXPORT_AGAIN = "export the bundle again"

T = TypeVar("T")


class BundleError(ValueError):
    """A bundle, or a part of one, was refused: which file, what was expected, what was found, what to do.

    All four are text; `found` is shown as given, so callers pass `show(value)` for values of others.
    """

    def __init__(self, file: str, expected: str, found: str, remedy: str) -> None:
        super().__init__(file, expected, found, remedy)
        self.file = file
        self.expected = expected
        self.found = found
        self.remedy = remedy

    def __str__(self) -> str:
        expected, found = self.expected[:MAX_PART], self.found[:MAX_PART]
        text = f"'{self.file}' must be {expected} (got {found}); {self.remedy}"
        return " ".join(text.encode("utf-8", "backslashreplace").decode().split())


class InvalidValue(ValueError):
    """A raw value that its field cannot be: which field, which row (None outside columns), one line why."""

    def __init__(self, field: str, row: int | None, message: str) -> None:
        super().__init__(field, row, message)
        self.field = field
        self.row = row
        self.message = message

    def __str__(self) -> str:
        return self.message


def show(value: object) -> str:
    """`value` in a few plain characters: a container by its size, a huge number by its length.

    Never raises, whatever a client sent: `repr` of a long integer does, and that of a nested list may.
    """
    if value is None or isinstance(value, bool | float):
        return repr(value)
    if isinstance(value, int):
        return repr(value) if value.bit_length() <= 128 else f"an integer of {value.bit_length()} bits"
    if isinstance(value, str):
        text = repr(value[:MAX_CHARACTERS])
        text = text.encode("utf-8", "backslashreplace").decode()
        return text if len(value) <= MAX_CHARACTERS else f"{text}... of {len(value)} characters"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    if isinstance(value, dict):
        return f"an object of {len(value)}"
    return f"a value of type {type(value).__name__}"


def decode_json(file: str, data: bytes, type: type[T]) -> T:  # noqa: A002
    """`data` as a value of `type`. Raises BundleError that names `file` and the place in it."""
    try:
        return msgspec.json.decode(data, type=type)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BundleError(file, "JSON of the contract's form", str(error), EXPORT_AGAIN) from error
