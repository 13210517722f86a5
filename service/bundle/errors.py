"""The two errors of the contract, for a refused bundle and a refused value; it knows no format."""

from __future__ import annotations

MAX_CHARACTERS = 120
MAX_PART = 400
EXPORT_AGAIN = "export the bundle again"


class BundleError(ValueError):
    """A bundle or a part of one is refused: the file, what was expected, what was found, and the remedy.

    All four are text; `found` is printed as given, so callers pass untrusted values through `show`.
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
    """A raw value that its field cannot have: field, row (None outside columns) and reason, in one line."""

    def __init__(self, field: str, row: int | None, message: str) -> None:
        super().__init__(field, row, message)
        self.field = field
        self.row = row
        self.message = message

    def __str__(self) -> str:
        return self.message


def show(value: object) -> str:
    """`value` as a short text: a container by its size, a huge number by its length.

    Never raises, whatever a client sends: `repr` raises for a long integer and may for a nested list.
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
