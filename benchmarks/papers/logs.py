"""The logs of a run: the given one, or evenly spaced rows of it, and made rows where a table has none.

It encodes a log once and keeps it; what is trained on it is not known here.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from itertools import chain, pairwise
from pathlib import Path
from typing import IO

import polars as pl

from benchmarks.papers.twitter import TARGETS
from benchmarks.papers.twitter_rows import write_rows
from export.data.log_schema import LogSchema, load_log_schema
from export.data.readers import scanned
from export.data.samples import sample_positions
from export.data.text_rows import open_log_file, read_header
from export.errors import ExportError
from export.stages.fit_schema import kept_log
from export.stages.plan import LogPlan
from export.stages.records import LogSummary
from export.stages.work import Say, Work
from service.bundle.delimited import Dialect, RecordParser, UnreadableText, parsed_blocks
from service.bundle.folders import replacing

MADE_ROWS = 20_000
BLOCK_BYTES = 1 << 24


def given_log(folder: Path, data: Path, schema: str, rows: int | None, say: Say) -> tuple[Work, LogSummary]:
    """FOLDER/log: the log, encoded. With `rows` at most so many, evenly spaced. Raises ExportError."""
    if rows is not None:
        data = thinned(data, load_log_schema(schema), rows, folder / "rows")
    return _encoded(folder / "log", data, schema, say)


def made_logs(folder: Path, rows: int | None, seed: int, say: Say) -> dict[str, tuple[Work, LogSummary]]:
    """By target, Twitter's rows as they are made here, encoded."""
    count = rows or MADE_ROWS
    data = folder / f"twitter-{count}-{seed}.tsv"
    if not data.exists():
        with replacing(data) as incoming:
            write_rows(incoming, count, seed)
    found = {}
    for target, column in TARGETS.items():
        schema = _schema_of(folder / f"{column}.toml", column)
        found[target] = _encoded(folder / f"log-{column}", data, str(schema), say)
    return found


def _schema_of(path: Path, column: str) -> Path:
    """The schema `twitter` with another label."""
    from export.data import log_schema

    text = (Path(log_schema.__file__).parent / "twitter.toml").read_text(encoding="utf-8")
    head, label = 'column = "like_timestamp"', f'column = "{column}"'
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text.replace(head, label, 1), encoding="utf-8")
    return path


def _encoded(folder: Path, data: Path, schema: str, say: Say) -> tuple[Work, LogSummary]:
    work = Work(folder)
    with work.held(new=True):
        return work, kept_log(work, LogPlan(data=data, schema=schema), say=say)


def thinned(data: Path, schema: LogSchema, rows: int, folder: Path) -> Path:
    """A file in FOLDER with at most so many rows of another, evenly spaced in its order.

    Raises ExportError for a file that is none of TSV, CSV and Parquet, and for one that is damaged.
    """
    stat = data.stat()
    # Rows with quotes were cut at each line once, so what was kept of them has another name.
    quoted = "whole-" if schema.quote else ""
    out = folder / f"{rows}-{stat.st_mtime_ns}-{stat.st_size}-{quoted}{data.name}"
    if data.is_dir() or data.suffix == ".parquet":
        out = out.with_name(out.name.removesuffix(".parquet") + ".parquet")
        return out if out.exists() else _thinned_parquet(data, rows, out)
    if not out.exists():
        kept = set(sample_positions(sum(map(len, _text_rows(data, schema))), rows).tolist())
        with replacing(out) as incoming, _written(incoming, out) as file:
            if schema.has_header:
                with open_log_file(data) as lines:
                    file.write(lines.readline())
            for number, row in enumerate(chain.from_iterable(_text_rows(data, schema))):
                if number in kept:
                    file.write(row)
    return out


def _text_rows(data: Path, schema: LogSchema) -> Iterator[list[bytes]]:
    """A block at a time the bytes of each row, malformed ones too; a quoted cell may hold ends of lines."""
    dialect, starts = Dialect(schema.separator, schema.quote), set[int]()
    columns = read_header(data, dialect) if schema.has_header else schema.columns
    parser = RecordParser(columns, dialect, lambda line, *_: starts.add(line))

    def parse(block: bytes, first: int, final: bool) -> tuple[list[bytes], int]:
        lines = [line + b"\n" for line in block.split(b"\n")[:-1]]
        if not (schema.quote and schema.quote.encode() in block):
            return [line for line in lines if line.strip(b"\r\n")], len(block)
        starts.clear()
        (_, found), consumed = parser.parse(block, first, final)
        stop = first + block.count(b"\n", 0, consumed)
        cuts = [*sorted(starts.union(found)), stop]
        return [b"".join(lines[one - first : other - first]) for one, other in pairwise(cuts)], consumed

    try:
        yield from parsed_blocks(data, BLOCK_BYTES, parse, skip_header=schema.has_header)
    except UnreadableText as error:
        raise ExportError(str(error)) from None


def _thinned_parquet(data: Path, rows: int, out: Path) -> Path:
    log, _ = scanned(data)
    try:
        count = log.select(pl.len()).collect().item()
        place = pl.col("__place")
        kept = log.with_row_index("__place").filter(place.is_in(sample_positions(count, rows).tolist()))
        with replacing(out) as incoming:
            kept.drop("__place").collect().write_parquet(incoming)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise ExportError(
            f"'data' must be TSV, CSV or Parquet (got {data.name}: {error}); name another file with --data"
        ) from None
    return out


def _written(path: Path, named: Path) -> IO[bytes]:
    """A new file, packed where its later name says so."""
    if named.suffix == ".gz":
        return gzip.open(path, "wb")  # type: ignore[return-value]
    return path.open("wb")
