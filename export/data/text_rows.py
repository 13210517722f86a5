"""Delimited text, plain or gzip, as frames of text cells with the line each row starts on, in bounded memory.

Polars parses text without quotes, after a check that every row has all columns (polars pads a short row
silently). Python's csv module parses text with quotes, slower and exactly. It knows nothing of labels or
fields.
"""

import csv
import gzip
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final, cast

import numpy as np
import polars as pl
from numpy.typing import NDArray

from export.data.errors import LogError, Rejections

if TYPE_CHECKING:
    from _csv import Reader

_NEWLINE: Final = ord("\n")
_GZIP_MAGIC: Final = b"\x1f\x8b"
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
_SAMPLE_BYTES: Final = 1 << 16
_MAX_BLOCK_BYTES: Final = 1 << 26
_MAX_LINE_BYTES: Final = 1 << 23


@dataclass(frozen=True)
class Dialect:
    """How cells are separated: a one-byte separator, and a one-byte quote or none."""

    separator: str
    quote: str


def open_log_file(path: Path) -> IO[bytes]:
    """The file's bytes, decompressed if gzip. Raises LogError if it cannot be read."""
    try:
        with path.open("rb") as file:
            is_gzip = file.read(2) == _GZIP_MAGIC
        return cast(IO[bytes], gzip.open(path, "rb")) if is_gzip else path.open("rb")
    except OSError as error:
        raise LogError(f"'data' must be a readable file (got {str(path)!r}); {error.strerror}") from None


def read_header(path: Path, dialect: Dialect) -> tuple[str, ...]:
    """The names in the first line. Raises LogError if there are none."""
    with open_log_file(path) as file:
        first = next(_blocks(file, path.name, _SAMPLE_BYTES), b"")
    line = first.split(b"\n", 1)[0]
    try:
        names = tuple(next(_csv_reader([line.decode()], dialect), ()))
    except (UnicodeDecodeError, csv.Error) as error:
        raise LogError(
            f"{path.name}, line 1: the header must be readable UTF-8 text ({error}); correct it"
        ) from None
    if not any(names):
        raise LogError(f"{path.name}: must hold rows (got an empty file or an empty first line)")
    return names


def text_rows(
    path: Path,
    columns: Sequence[str],
    used: Sequence[str],
    dialect: Dialect,
    rejections: Rejections,
    *,
    skip_header: bool,
    chunk_rows: int,
) -> Iterator[tuple[pl.DataFrame, NDArray[np.int64]]]:
    """About `chunk_rows` rows at a time: the `used` columns as text (null where empty), and line numbers [n].

    Raises LogError about the file. A row with a wrong number of columns, an unclosed quote or invalid UTF-8
    goes to `rejections`.
    """
    parser = _Parser(columns, used, dialect, rejections)
    with open_log_file(path) as file:
        line, carry = 1, b""
        source = _blocks(file, path.name, _block_bytes(path, chunk_rows))
        block = next(source, None)
        while block is not None:
            following = next(source, None)
            block = carry + block
            if line == 1 and skip_header:
                block = block.partition(b"\n")[2]
                line = 2
            frame, lines, consumed = parser.parse(block, line, final=following is None)
            line += block.count(b"\n", 0, consumed)
            carry = block[consumed:]
            yield frame, lines
            block = following


def _block_bytes(path: Path, chunk_rows: int) -> int:
    """Bytes that hold about `chunk_rows` rows, estimated from the head of the file."""
    with open_log_file(path) as file:
        head = next(_blocks(file, path.name, _SAMPLE_BYTES), b"")
    mean = max(1.0, len(head) / max(1, head.count(b"\n")))
    return int(min(_MAX_BLOCK_BYTES, max(1, mean * chunk_rows)))


def _blocks(file: IO[bytes], name: str, size: int) -> Iterator[bytes]:
    """The file in blocks of about `size` bytes, each of whole lines, without a byte order mark."""
    rest = b""
    start = True
    while True:
        try:
            chunk = file.read(size)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise LogError(f"{name}: must be a whole gzip file ({error}); copy it again") from None
        if start and chunk.startswith(_BYTE_ORDER_MARK):
            chunk = chunk[len(_BYTE_ORDER_MARK) :]
        start = False
        if not chunk:
            break
        data = rest + chunk
        cut = data.rfind(b"\n") + 1
        rest = data[cut:]
        if len(rest) > max(size, _MAX_LINE_BYTES):
            raise LogError(
                f"{name}: lines must end with a newline within {_MAX_LINE_BYTES:,} bytes; is it text?"
            )
        if cut:
            yield data[:cut]
    if rest:
        yield rest.removesuffix(b"\r") + b"\n"


def _csv_reader(lines: Iterable[str], dialect: Dialect) -> "Reader":
    return csv.reader(
        lines,
        delimiter=dialect.separator,
        quotechar=dialect.quote or None,
        quoting=csv.QUOTE_MINIMAL if dialect.quote else csv.QUOTE_NONE,
        strict=True,
    )


class _Parser:
    """Bytes of whole lines -> cells of the used columns."""

    def __init__(
        self, columns: Sequence[str], used: Sequence[str], dialect: Dialect, rejections: Rejections
    ) -> None:
        self._columns = tuple(columns)
        self._width = len(columns)
        self._used = list(used)
        self._positions = [list(columns).index(name) for name in used]
        self._names = [f"column_{number}" for number in range(1, self._width + 1)]
        self._dialect = dialect
        self._rejections = rejections

    def parse(
        self, block: bytes, first_line: int, *, final: bool
    ) -> tuple[pl.DataFrame, NDArray[np.int64], int]:
        """-> cells, line numbers, bytes consumed: not all if a quoted cell continues in the next block."""
        if self._dialect.quote and self._dialect.quote.encode() in block:
            return self._parse_quoted(block, first_line, final)
        frame, lines = self._parse_plain(block, first_line)
        return frame, lines, len(block)

    def _parse_plain(self, block: bytes, first_line: int) -> tuple[pl.DataFrame, NDArray[np.int64]]:
        if b"\r\n" in block:
            block = block.replace(b"\r\n", b"\n")
        block, lines = self._without_ragged_rows(block, first_line)
        if not block.isascii():
            try:
                block.decode()
            except UnicodeDecodeError:
                block, lines = self._without_undecodable_rows(block, lines)
        if not block:
            return self._frame([]), lines
        cells = pl.read_csv(
            block,
            has_header=False,
            schema=dict.fromkeys(self._names, pl.String),
            columns=[self._names[position] for position in sorted(self._positions)],
            separator=self._dialect.separator,
            quote_char=None,
        )
        named = zip(self._used, self._positions, strict=True)
        return cells.select(pl.col(self._names[position]).alias(name) for name, position in named), lines

    def _without_ragged_rows(self, block: bytes, first_line: int) -> tuple[bytes, NDArray[np.int64]]:
        """Drops empty lines and rejects rows with a wrong number of separators."""
        content = np.frombuffer(block, np.uint8)
        marks = content[(content == ord(self._dialect.separator)) | (content == _NEWLINE)] == _NEWLINE
        if marks.size % self._width == 0:
            grid = marks.reshape(-1, self._width)
            if grid[:, -1].all() and np.count_nonzero(marks) == len(grid):
                return block, np.arange(first_line, first_line + len(grid), dtype=np.int64)
        ends = np.flatnonzero(content == _NEWLINE)
        lengths = np.diff(ends, prepend=-1)
        separators = np.flatnonzero(content == ord(self._dialect.separator))
        widths = np.diff(np.searchsorted(separators, ends), prepend=0) + 1
        lines = np.arange(first_line, first_line + len(ends), dtype=np.int64)
        empty = lengths == 1
        ragged = (widths != self._width) & ~empty
        if ragged.any():
            first = int(np.argmax(ragged))
            self._reject_width(int(lines[first]), int(widths[first]), int(ragged.sum()))
        return _keep(content, lengths, ~(empty | ragged)), lines[~(empty | ragged)]

    def _without_undecodable_rows(
        self, block: bytes, lines: NDArray[np.int64]
    ) -> tuple[bytes, NDArray[np.int64]]:
        rows = zip(block.split(b"\n")[:-1], lines.tolist(), strict=True)
        kept = [self._decoded(row, line) is not None for row, line in rows]
        content = np.frombuffer(block, np.uint8)
        lengths = np.diff(np.flatnonzero(content == _NEWLINE), prepend=-1)
        return _keep(content, lengths, np.array(kept, bool)), lines[kept]

    def _decoded(self, row: bytes, line: int) -> str | None:
        try:
            return row.decode()
        except UnicodeDecodeError as error:
            position = row.count(self._dialect.separator.encode(), 0, error.start)
            column = self._columns[min(position, self._width - 1)]
            self._rejections.add(line, column, "valid UTF-8", row[error.start : error.end])
            return None

    def _reject_width(self, line: int, width: int, rows: int = 1) -> None:
        self._rejections.add(line, None, f"{self._width} columns wide", f"{width} columns", rows)

    def _parse_quoted(
        self, block: bytes, first_line: int, final: bool
    ) -> tuple[pl.DataFrame, NDArray[np.int64], int]:
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
                    return self._frame(records), np.array(lines, np.int64), feed.offset(start)
                self._reject_unparsable(feed, start, first_line, error)
                feed.position = start + 1
                reader = _csv_reader(feed, self._dialect)
                continue
            if len(cells) == self._width:
                records.append(cells)
                lines.append(first_line + start)
            elif feed.lines[start] not in (b"", b"\r"):
                self._reject_width(first_line + start, len(cells))
        return self._frame(records), np.array(lines, np.int64), len(block)

    def _reject_unparsable(self, feed: "_Lines", start: int, first_line: int, error: Exception) -> None:
        if isinstance(error, UnicodeDecodeError):
            bad = feed.position - 1
            self._decoded(feed.lines[bad], first_line + bad)
            return
        self._rejections.add(first_line + start, None, f"well quoted ({error})", feed.lines[start])

    def _frame(self, records: list[list[str]]) -> pl.DataFrame:
        columns = list(zip(*records, strict=True)) if records else [()] * self._width
        named = zip(self._used, self._positions, strict=True)
        return pl.DataFrame({name: pl.Series(columns[position], dtype=pl.String) for name, position in named})


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
        if dialect.quote.encode() in line:
            return []
        self.position += 1
        return line.removesuffix(b"\r").decode().split(dialect.separator)

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        if self.exhausted:
            raise StopIteration
        line = self.lines[self.position]
        self.position += 1
        return line.decode() + "\n"


def _keep(content: NDArray[np.uint8], lengths: NDArray[np.int64], kept: NDArray[np.bool_]) -> bytes:
    return content[np.repeat(kept, lengths)].tobytes()
