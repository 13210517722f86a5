"""The errors of a click log and of its description; what they say is meant for a terminal."""

from typing import Literal

from export.errors import ExportError

OnMalformed = Literal["error", "skip"]
"""What a malformed row does: end the export, or be skipped and counted."""


class LogSchemaError(ExportError):
    """A log's description is wrong: names the file, the key, what was expected and what was found."""


class LogError(ExportError):
    """The log does not fit its description: names the file, line and column, what was expected and found."""


class Rejections:
    """What happens to a malformed row: the first one is an error, or each is skipped and counted."""

    def __init__(self, file: str, on_malformed: str, unit: str = "line") -> None:
        self.file = file
        self.on_malformed = on_malformed
        self.unit = unit
        self.count = 0

    def add(self, line: int, column: str | None, expected: str, found: object, rows: int = 1) -> None:
        """Counts `rows` malformed rows, the first of which is described, or raises LogError about it."""
        if self.on_malformed == "skip":
            self.count += rows
            return
        what = f"column '{column}'" if column is not None else "the row"
        raise LogError(
            f"{self.file}, {self.unit} {line}: {what} must be {expected} (got {shortened(found)}); "
            f"correct the {self.unit}, or skip and count malformed rows with --on-malformed skip"
        )


def shortened(found: object, limit: int = 80) -> str:
    """The repr of a value, cut so that an error stays one readable line."""
    if found is None:
        return "nothing"
    text = repr(found)
    return text if len(text) <= limit else text[: limit - 4] + "..." + text[-1]
