"""The first rows of a log of unknown form: its format, separator, quote and header, and its cells.

It knows nothing of what columns mean.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import polars as pl

from export.data.errors import LogError, Rejections, shortened
from export.data.log_schema import Format
from export.data.progress import Bar
from export.data.readers import of_whole_files, scanned
from export.data.text_rows import HEAD_BYTES, Dialect, lines_about, open_log_file, read_header, text_rows
from export.infer.plan import Header, InferPlan
from service.bundle.delimited import UnreadableText, blocks

_PARQUET_MAGIC: Final = b"PAR1"
_SEPARATORS: Final = ("\t", ",", ";", "|", "\x01")
_QUOTES: Final = ('"', "'")
_HEAD_LINES: Final = 100
_CHUNK_ROWS: Final = 100_000
_NUMBER: Final = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"


@dataclass(frozen=True, eq=False)
class Sample:
    """The first rows of a log: `cells` are text where the file is, else typed as in Parquet."""

    format: Format
    dialect: Dialect | None  # of a text file
    has_header: bool
    cells: pl.DataFrame
    skipped: int  # rows of another width, or of no UTF-8, among the first ones
    is_whole: bool  # whether the log has no other rows

    @property
    def rows(self) -> int:
        return len(self.cells)


def read_sample(plan: InferPlan) -> Sample:
    """The first rows of the plan's log. Raises LogError where it cannot be read or holds none."""
    path = plan.data
    with open_log_file(path), path.open("rb") as file:  # whatever its name ends in
        is_parquet = file.read(len(_PARQUET_MAGIC)) == _PARQUET_MAGIC
    sample = _parquet_sample(plan) if is_parquet else _text_sample(plan)
    if not sample.rows:
        raise LogError(f"{path.name}: must hold rows to guess from (got none); name another log")
    return sample


def _parquet_sample(plan: InferPlan) -> Sample:
    if plan.header != InferPlan.header:
        raise LogError(
            f"'header' must be {InferPlan.header} for Parquet, which names its columns (got "
            f"{plan.header!r}); leave it out"
        )
    log, _ = scanned(plan.data)
    with of_whole_files(plan.data):
        cells = log.head(plan.rows + 1).collect()
    return Sample("parquet", None, True, cells.head(plan.rows), 0, len(cells) <= plan.rows)


def _text_sample(plan: InferPlan) -> Sample:
    head = _head_lines(plan.data)
    dialect = _dialect(head)
    first = read_header(plan.data, dialect)
    has_header = _has_header(plan.header, first, head, dialect)
    columns = first if has_header else tuple(f"c{number}" for number in range(1, len(first) + 1))
    if twice := sorted(name for name, times in Counter(columns).items() if times > 1):
        raise LogError(
            f"{plan.data.name}: column names must differ (got {shortened(twice[0])} twice); rename one in "
            "the header, or say --header no if the first line is a row"
        )
    rejections = Rejections(plan.data.name, "skip")
    frames: list[pl.DataFrame] = []
    chunks = text_rows(
        plan.data,
        columns,
        columns,
        dialect,
        rejections,
        skip_header=has_header,
        chunk_rows=min(plan.rows + 1, _CHUNK_ROWS),
    )
    rows = 0
    with Bar("read", min(plan.rows, lines_about(plan.data))) as bar:
        for cells, _ in chunks:
            frames.append(cells)
            rows += len(cells)
            bar.add(len(cells))
            if rows > plan.rows:
                break
    cells = pl.concat(frames).head(plan.rows) if frames else pl.DataFrame()
    format_: Format = "tsv" if dialect.separator == "\t" else "csv"
    return Sample(format_, dialect, has_header, cells, rejections.count, rows <= plan.rows)


def _head_lines(path: Path) -> list[str]:
    """The first lines of a text file that are not empty. Raises LogError where it is no text."""
    try:
        with open_log_file(path) as file:
            block = next(blocks(file, path.name, HEAD_BYTES), b"")
        lines = block.decode().splitlines()
    except UnreadableText as error:
        raise LogError(str(error)) from None
    except UnicodeDecodeError as error:
        raise LogError(
            f"{path.name}: must be UTF-8 text, plain or gzip, or Parquet ({error}); convert it"
        ) from None
    head = [line for line in lines if line][:_HEAD_LINES]
    if head and all(line.startswith("{") and line.endswith("}") for line in head):
        raise LogError(f"{path.name}: must be a table (got JSON, an object a line); convert it to Parquet")
    return head


def _dialect(head: Sequence[str]) -> Dialect:
    """The separator that cuts all lines alike, into the most cells; a comma where none cuts."""

    def cells(separator: str) -> int:
        """A row, if nearly all lines have as many; quoted cells may hold some more."""
        counts = sorted(line.count(separator) for line in head)
        return counts[0] if counts and counts[0] == counts[len(counts) * 9 // 10] else 0

    best = max(_SEPARATORS, key=cells)
    if not cells(best):
        best = max(_SEPARATORS, key=lambda one: min((line.count(one) for line in head), default=0))
        best = best if all(best in line for line in head) else ","
    usual = '"' if best != "\t" else ""
    enclosing = (quote for quote in _QUOTES if _is_quoted(head, best, quote))
    return Dialect(best, next(enclosing, usual))


def _is_quoted(head: Sequence[str], separator: str, quote: str) -> bool:
    """Whether cells of most lines stand in these quotes."""
    starts, ends = (quote, separator + quote), (quote, quote + separator)
    quoted = [line for line in head if any(one in line for one in (starts[1], ends[1]))]
    return len(quoted) * 2 > len(head) and all(line.count(quote) % 2 == 0 for line in quoted)


def _has_header(said: Header, first: tuple[str, ...], head: Sequence[str], dialect: Dialect) -> bool:
    """Whether the first line names columns: texts that differ, over numbers, or that no row repeats."""
    if said != "auto":
        return said == "yes"
    names = pl.Series(first, dtype=pl.String)
    if names.str.contains(_NUMBER).any():
        return False
    if _reads_like_names(names) and len(set(first)) == len(first):
        return True
    rows = [line.split(dialect.separator) for line in head[1:]]
    return not any(cell.strip(dialect.quote) in first for row in rows for cell in row if cell)


def _reads_like_names(names: pl.Series) -> bool:
    """Whether all cells that are not empty are words of letters, as no row of ids is."""
    return bool(names.filter(names != "").str.contains(r"^[A-Za-z_][\w .:/()-]*$").all())
