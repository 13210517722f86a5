"""Delimited text, plain or gzip, as frames of text cells with the line each row starts on, in bounded memory.

Polars parses text without quotes, after a check that every row has all columns (polars pads a short row
silently). Text with quotes goes to the parser that files of users and ads have too, slower and exact. It
knows nothing of labels or fields.
"""

import csv
import io
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import IO, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from export.data.errors import LogError, Rejections
from service.bundle.delimited import (
    GZIP_MAGIC,
    MAX_BLOCK_BYTES,
    SAMPLE_BYTES,
    Dialect,
    RecordParser,
    UnreadableText,
    blocks,
    header_of,
    open_bytes,
    parsed_blocks,
)

__all__ = ["Dialect", "head_rows", "lines_about", "open_log_file", "read_header", "text_rows"]

_NEWLINE: Final = ord("\n")
HEAD_BYTES: Final = 1 << 18
Frame = tuple[pl.DataFrame, NDArray[np.int64]]


def open_log_file(path: Path) -> IO[bytes]:
    """The file's bytes, decompressed if gzip. Raises LogError if it cannot be read."""
    try:
        return open_bytes(path)
    except OSError as error:
        raise _unreadable(path, error) from None


def read_header(path: Path, dialect: Dialect) -> tuple[str, ...]:
    """The names in the first line. Raises LogError if there are none."""
    try:
        return header_of(path, dialect)
    except OSError as error:
        raise _unreadable(path, error) from None
    except UnreadableText as error:
        raise LogError(str(error)) from None


def text_rows(
    path: Path,
    columns: Sequence[str],
    used: Sequence[str],
    dialect: Dialect,
    rejections: Rejections,
    *,
    skip_header: bool,
    chunk_rows: int,
) -> Iterator[Frame]:
    """About `chunk_rows` rows at a time: the `used` columns as text (null where empty), and line numbers [n].

    Raises LogError about the file. A row with a wrong number of columns, an unclosed quote or invalid UTF-8
    goes to `rejections`.
    """
    parser = _Parser(columns, used, dialect, rejections)
    try:
        size = _block_bytes(path, chunk_rows)
        yield from parsed_blocks(path, size, parser.parse, skip_header=skip_header)
    except OSError as error:
        raise _unreadable(path, error) from None
    except UnreadableText as error:
        raise LogError(str(error)) from None


def _unreadable(path: Path, error: OSError) -> LogError:
    return LogError(f"'data' must be a readable file (got {str(path)!r}); {error.strerror}")


def _block_bytes(path: Path, chunk_rows: int) -> int:
    """Bytes that hold about `chunk_rows` rows, estimated from the head of the file."""
    with open_bytes(path) as file:
        mean = _mean_bytes(next(blocks(file, path.name, SAMPLE_BYTES), b""))
    return int(min(MAX_BLOCK_BYTES, max(1, mean * chunk_rows)))


def head_rows(path: Path, dialect: Dialect, rows: int) -> list[list[str]]:
    """The cells of the first rows, a header among them, whatever their width and encoding.

    Fewer where quotes are not closed. Raises LogError if the file cannot be read.
    """
    try:
        with open_bytes(path) as file:
            head = next(blocks(file, path.name, SAMPLE_BYTES), b"")
    except OSError as error:
        raise _unreadable(path, error) from None
    except UnreadableText as error:
        raise LogError(str(error)) from None
    reader = csv.reader(
        io.StringIO(head.decode(errors="replace"), newline=""),
        delimiter=dialect.separator,
        quotechar=dialect.quote or None,
        quoting=csv.QUOTE_MINIMAL if dialect.quote else csv.QUOTE_NONE,
    )
    found: list[list[str]] = []
    with suppress(csv.Error):
        found.extend(islice((row for row in reader if row), rows))
    return found


def _mean_bytes(head: bytes) -> float:
    """Bytes of a line, by the head of a file."""
    return max(1.0, len(head) / max(1, head.count(b"\n")))


def lines_about(path: Path) -> int:
    """About how many lines a file has, by its head; if gzip, as if all of it were packed as well as that.

    Raises LogError if it cannot be read.
    """
    try:
        with path.open("rb") as raw, open_bytes(path) as file:
            head = next(blocks(file, path.name, HEAD_BYTES), b"")
            packed = len(zlib.compress(head, 6)) if raw.read(2) == GZIP_MAGIC else len(head)
        size = path.stat().st_size
    except OSError as error:
        raise _unreadable(path, error) from None
    except UnreadableText as error:
        raise LogError(str(error)) from None
    return round(size * len(head) / max(1, packed) / _mean_bytes(head))


class _Parser:
    """Bytes of whole lines -> cells of the used columns."""

    def __init__(
        self, columns: Sequence[str], used: Sequence[str], dialect: Dialect, rejections: Rejections
    ) -> None:
        self._width = len(columns)
        self._used = list(used)
        positions = {name: position for position, name in enumerate(columns)}
        self._positions = [positions[name] for name in used]
        self._names = [f"column_{number}" for number in range(1, self._width + 1)]
        self._dialect = dialect
        self._rejections = rejections
        self._records = RecordParser(columns, dialect, rejections.add)

    def parse(self, block: bytes, first_line: int, final: bool) -> tuple[Frame, int]:
        """-> cells, line numbers, bytes consumed: not all if a quoted cell continues in the next block."""
        if self._dialect.quote and self._dialect.quote.encode() in block:
            (records, lines), consumed = self._records.parse(block, first_line, final)
            return (self._frame(records), np.array(lines, np.int64)), consumed
        return self._parse_plain(block, first_line), len(block)

    def _parse_plain(self, block: bytes, first_line: int) -> Frame:
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
        kept = [self._records.decoded(row, line) is not None for row, line in rows]
        content = np.frombuffer(block, np.uint8)
        lengths = np.diff(np.flatnonzero(content == _NEWLINE), prepend=-1)
        return _keep(content, lengths, np.array(kept, bool)), lines[kept]

    def _reject_width(self, line: int, width: int, rows: int = 1) -> None:
        self._rejections.add(line, None, f"{self._width} columns wide", f"{width} columns", rows)

    def _frame(self, records: list[list[str]]) -> pl.DataFrame:
        columns = list(zip(*records, strict=True)) if records else [()] * self._width
        named = zip(self._used, self._positions, strict=True)
        return pl.DataFrame({name: pl.Series(columns[position], dtype=pl.String) for name, position in named})


def _keep(content: NDArray[np.uint8], lengths: NDArray[np.int64], kept: NDArray[np.bool_]) -> bytes:
    return content[np.repeat(kept, lengths)].tobytes()
