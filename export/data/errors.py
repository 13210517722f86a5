"""The errors of a click log and of its description, with messages for a terminal."""

from typing import Literal

from export.errors import ExportError

OnMalformed = Literal["error", "skip"]
"""What a malformed row does: end the export, or be skipped and counted."""


class LogSchemaError(ExportError):
    """A log's description is wrong. The message names file, key, expected and found."""


class LogError(ExportError):
    """The log does not match its description. The message names file, line, column, expected and found."""


class DisagreementError(LogError):
    """The schema does not describe the log, as nearly all rows show. The message names the schema's key."""


class Rejections:
    """Handles malformed rows: the first raises an error, or all are skipped and counted."""

    def __init__(self, file: str, on_malformed: str, unit: str = "line") -> None:
        self.file = file
        self.on_malformed = on_malformed
        self.unit = unit
        self.count = 0
        self.disagreement: str | None = None
        self._is_warned = False  # it is why no row is skipped

    def add(
        self,
        line: int,
        column: str | None,
        expected: str,
        found: object,
        rows: int = 1,
        *,
        remedy: str | None = None,
    ) -> None:
        """Counts `rows` malformed rows, or raises LogError about the first, which the arguments describe.

        `remedy` is what the schema could say about such cells.
        """
        if self.on_malformed == "skip":
            self.count += rows
            return
        what = f"column '{column}'" if column is not None else "the row"
        first = f"{remedy}, " if remedy else ""
        raise LogError(
            f"{self.file}, {self.unit} {line}: {what} must be {expected} (got {shortened(found)}); {first}"
            f"correct the {self.unit}, or skip and count malformed rows with --on-malformed skip"
        )

    def within(self, rows: int) -> str:
        """`in 1,000 lines of shop.csv`."""
        return f"in {rows:,} {self.unit}s of {self.file}"

    def disagree(self, message: str) -> None:
        """Raises DisagreementError; where rows are skipped, keeps the first one, to be told later."""
        if self.on_malformed != "skip":
            raise DisagreementError(message)
        if self.disagreement is None or self._is_warned:
            self.disagreement, self._is_warned = message, False

    def warn(self, message: str) -> None:
        """Keeps what is told of the schema for later, unless it is known why rows are skipped."""
        if self.disagreement is None:
            self.disagreement, self._is_warned = message, True


def no_rows(file: str, skipped: int, disagreement: str | None = None) -> LogError:
    """The error of a log without a row that is whole; a `disagreement` with the schema is why."""
    if disagreement is not None:
        return DisagreementError(f"{disagreement}; --on-malformed skip leaves no row")
    return LogError(f"{file}: must hold rows (got none, {skipped:,} malformed rows skipped)")


def shortened(found: object, limit: int = 80) -> str:
    """The repr of a value, shortened so that an error stays one readable line."""
    if found is None:
        return "nothing"
    text = repr(found)
    return text if len(text) <= limit else text[: limit - 4] + "..." + text[-1]
