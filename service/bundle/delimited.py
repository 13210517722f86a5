"""Delimited text, plain or gzip, in bounded memory: blocks of whole lines, the header, records of cells.

Logs and files of users and ads are read by the same rules. It knows no schema: cells are text.
"""

from __future__ import annotations

import csv
import gzip
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final, TypeVar, cast

if TYPE_CHECKING:
    from _csv import Reader

T = TypeVar("T")
# Called with the line, the column or None, what was expected, and what was found.
Reject = Callable[[int, str | None, str, object], None]
# Called with a block, its first line and whether it is the last; returns how many bytes it consumed.
Parse = Callable[[bytes, int, bool], tuple[T, int]]

MAX_BLOCK_BYTES: Final = 1 << 26
MAX_LINE_BYTES: Final = 1 << 23
SAMPLE_BYTES: Final = 1 << 16
GZIP_MAGIC: Final = b"\x1f\x8b"
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"


class UnreadableText(ValueError):
    """The file as a whole cannot be read; the message is one line."""


@dataclass(frozen=True)
class Dialect:
    """How cells are separated: a one-byte separator, and a one-byte quote or none."""

    separator: str
    quote: str


def open_bytes(path: Path) -> IO[bytes]:
    """The file's bytes, decompressed if gzip. Raises OSError."""
    with path.open("rb") as file:
        is_gzip = file.read(2) == GZIP_MAGIC
    return cast(IO[bytes], gzip.open(path, "rb")) if is_gzip else path.open("rb")


def header_of(path: Path, dialect: Dialect) -> tuple[str, ...]:
    """The names in the first line. Raises UnreadableText if there are none, OSError."""
    with open_bytes(path) as file:
        first = next(blocks(file, path.name, SAMPLE_BYTES), b"")
    line = first.split(b"\n", 1)[0]
    try:
        names = tuple(next(_csv_reader([line.decode()], dialect), ()))
    except UnicodeDecodeError as error:
        raise UnreadableText(
            f"{path.name}, line 1: the header must be UTF-8 text ({error}); save the file as UTF-8"
        ) from None
    except csv.Error as error:
        raise UnreadableText(
            f"{path.name}, line 1: the header must be one line of cells ({error}); end lines with LF or CRLF"
        ) from None
    if not any(names):
        raise UnreadableText(f"{path.name}: must hold rows (got an empty file or an empty first line)")
    return names


def blocks(file: IO[bytes], name: str, size: int) -> Iterator[bytes]:
    """The file in blocks of about `size` bytes, each of whole lines, without a byte order mark.

    Raises UnreadableText.
    """
    rest = b""
    is_start = True
    while True:
        try:
            chunk = file.read(len(_BYTE_ORDER_MARK) if is_start else size)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise UnreadableText(f"{name}: must be a whole gzip file ({error}); copy it again") from None
        if not chunk:
            break
        data = b"" if is_start and chunk == _BYTE_ORDER_MARK else rest + chunk
        is_start = False
        cut = data.rfind(b"\n") + 1
        rest = data[cut:]
        if len(rest) > max(size, MAX_LINE_BYTES):
            raise UnreadableText(
                f"{name}: lines must end with a newline within {MAX_LINE_BYTES:,} bytes; is it text?"
            )
        if cut:
            yield data[:cut]
    if rest:
        yield rest.removesuffix(b"\r") + b"\n"


def parsed_blocks(path: Path, size: int, parse: Parse[T], *, skip_header: bool) -> Iterator[T]:
    """What `parse` makes of each block; what it does not consume comes first in the next one.

    Raises UnreadableText, OSError, and what `parse` raises.
    """
    with open_bytes(path) as file:
        line, carry = 1, b""
        source = blocks(file, path.name, size)
        block = next(source, None)
        while block is not None:
            following = next(source, None)
            block = carry + block
            if line == 1 and skip_header:
                block = block.partition(b"\n")[2]
                line = 2
            parsed, consumed = parse(block, line, following is None)
            line += block.count(b"\n", 0, consumed)
            carry = block[consumed:]
            yield parsed
            block = following


class RecordParser:
    """Bytes of whole lines -> records of cells, exactly: by csv.reader where there are quotes.

    A row with a wrong number of columns, an unclosed quote or invalid UTF-8 goes to `reject`; if that
    returns, the row is skipped. Empty lines are no rows.
    """

    def __init__(self, columns: Sequence[str], dialect: Dialect, reject: Reject) -> None:
        self._columns = tuple(columns)
        self._dialect = dialect
        self._reject = reject

    def parse(
        self, block: bytes, first_line: int, final: bool
    ) -> tuple[tuple[list[list[str]], list[int]], int]:
        """-> records with the line each starts on, and the bytes consumed.

        Not all of them are consumed if a quoted cell continues in the next block.
        """
        # A quoted cell may be as long as one without quotes, which only the length of a block limits.
        csv.field_size_limit(MAX_BLOCK_BYTES)
        feed = _Lines(block)
        reader = _csv_reader(feed, self._dialect)
        records: list[list[str]] = []
        lines: list[int] = []
        while not feed.exhausted:
            start = feed.position
            try:
                cells = feed.unquoted_row(self._dialect) or next(reader)
            except (csv.Error, UnicodeDecodeError) as error:
                if feed.exhausted and "unexpected end" in str(error) and not final:
                    return (records, lines), feed.offset(start)
                self._reject_unparsable(feed, start, first_line, error)
                feed.position = start + 1
                reader = _csv_reader(feed, self._dialect)
                continue
            if len(cells) == len(self._columns):
                records.append(cells)
                lines.append(first_line + start)
            elif feed.lines[start] not in (b"", b"\r"):
                expected = f"{len(self._columns)} columns wide"
                self._reject(first_line + start, None, expected, f"{len(cells)} columns")
        return (records, lines), len(block)

    def decoded(self, row: bytes, line: int) -> str | None:
        """The text of a row; None if it is not UTF-8 and `reject` returned."""
        try:
            return row.decode()
        except UnicodeDecodeError as error:
            position = row.count(self._dialect.separator.encode(), 0, error.start)
            column = self._columns[min(position, len(self._columns) - 1)]
            self._reject(line, column, "valid UTF-8", row[error.start : error.end])
            return None

    def _reject_unparsable(self, feed: _Lines, start: int, first_line: int, error: Exception) -> None:
        if isinstance(error, UnicodeDecodeError):
            bad = feed.position - 1
            self.decoded(feed.lines[bad], first_line + bad)
            return
        self._reject(first_line + start, None, f"well quoted ({error})", feed.lines[start])


def _csv_reader(lines: Iterable[str], dialect: Dialect) -> Reader:
    return csv.reader(
        lines,
        delimiter=dialect.separator,
        quotechar=dialect.quote or None,
        quoting=csv.QUOTE_MINIMAL if dialect.quote else csv.QUOTE_NONE,
        strict=True,
    )


class _Lines:
    """An iterator over the lines of a block for csv.reader, with a position that can be reset."""

    def __init__(self, block: bytes) -> None:
        self.lines = block.split(b"\n")[:-1]
        self.position = 0

    @property
    def exhausted(self) -> bool:
        return self.position >= len(self.lines)

    def offset(self, position: int) -> int:
        """The byte offset of a line in the block."""
        return sum(len(line) + 1 for line in self.lines[:position])

    def unquoted_row(self, dialect: Dialect) -> list[str]:
        """The cells of the next line, split as polars does; empty if a quote makes it csv.reader's task."""
        line = self.lines[self.position]
        if dialect.quote and dialect.quote.encode() in line:
            return []
        self.position += 1
        return line.removesuffix(b"\r").decode().split(dialect.separator)

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        if self.exhausted:
            raise StopIteration
        line = self.lines[self.position]
        self.position += 1
        return line.decode() + "\n"
