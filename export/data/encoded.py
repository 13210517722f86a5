"""A raw click log -> arrays of ids on disk: read once, split, fit the schema on the training part, encode.

It knows nothing of models. Memory holds one chunk and the counts of distinct values. While it runs, the disk
holds the typed log beside the arrays.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl
from numpy.typing import NDArray

from export.data.counting import MAX_TEXTS, NumberCounts
from export.data.encode import PartWriter
from export.data.errors import LogError, OnMalformed, no_rows
from export.data.fit import MIN_COUNT, FieldCounts, fit_schema, min_counts
from export.data.growth import Changes, Growth
from export.data.log_schema import LogSchema
from export.data.parts import (
    METADATA,
    PAST,
    SAMPLES,
    Batch,
    EncodedLog,
    LogRecord,
    Part,
    SampleRow,
    batches,
    open_log,
)
from export.data.past import check_same_fields
from export.data.progress import Progress
from export.data.readers import check_weights, read_log, rows_about
from export.data.spill import Spill
from export.data.splits import (
    DEFAULT_SHARES,
    PARTS,
    Split,
    check_parts,
    check_shares,
    split_by_rows,
    split_by_time,
)
from service.bundle.encoder import Encoder
from service.bundle.folders import replacing
from service.bundle.json_files import encode_json
from service.bundle.schema import Schema
from service.bundle.schema_files import schema_to_files

__all__ = ["Batch", "EncodedLog", "Part", "batches", "open_log", "prepare_log"]


def prepare_log(
    path: Path,
    log_schema: LogSchema,
    out: Path,
    *,
    split: tuple[float, float, float, float] = DEFAULT_SHARES,
    on_malformed: OnMalformed = "error",
    min_count: int | None = None,
    chunk_rows: int = 200_000,
    samples: int = 512,
    max_texts: int = MAX_TEXTS,
    native: bool = True,
    growth: Growth | None = None,
    report: Callable[[str], None] = print,
) -> EncodedLog:
    """Reads the log at `path` and writes its encoded form to the folder `out`, complete or not at all.

    `split` holds the shares of training, validation, calibration and test; `min_count` overrides every
    field's own; `samples` is the number of raw test rows to keep; `max_texts` limits the distinct texts that
    are counted exactly in a field; without `native` Python encodes all, which gives the same ids; with
    `growth` the encodings go on from earlier ones. Raises LogError for an unreadable log, a malformed row, a
    part without clicks, or other fields than those before.
    """
    check_shares(split)
    if growth is not None:
        check_same_fields(log_schema.fields, growth.past.schema)
    _check_out(out)
    options = _Options(split, on_malformed, min_count, chunk_rows, samples, max_texts, native, growth)
    with replacing(out, sync=False) as folder:  # a log that a power failure tears is prepared again
        folder.mkdir()
        _prepare(path, log_schema, folder, options, report)
        _check_out(out)  # it may have appeared meanwhile
    return open_log(out)


@dataclass(frozen=True)
class _Options:
    """The keyword arguments of `prepare_log`."""

    shares: tuple[float, float, float, float]
    on_malformed: OnMalformed
    min_count: int | None
    chunk_rows: int
    samples: int
    max_texts: int
    native: bool
    growth: Growth | None


def _prepare(
    path: Path, log_schema: LogSchema, folder: Path, options: _Options, report: Callable[[str], None]
) -> None:
    spill_folder = folder / "spill"
    spill_folder.mkdir()
    spill = Spill(spill_folder, native=options.native)
    seconds, skipped = _read(path, log_schema, spill, options, report)
    split = _split(spill, seconds, options.shares)
    counted = _count(spill, split, FieldCounts(log_schema, options.max_texts), report)
    check_parts(counted.rows, counted.clicks, path.name)
    schema = fit_schema(log_schema, counted.fields, options.min_count, options.growth)
    report(f"fitted {len(schema.fields)} fields, {sum(field.cardinality for field in schema.fields):,} ids")
    if options.growth is not None:
        past = options.growth.past
        report(f"vocabularies: {Changes.of(past.schema, schema)}")
        arrays: dict[str, Any] = dict(past.moved_to(schema).arrays())
        np.savez(folder / PAST, **arrays)
    _tell_min_counts(min_counts(log_schema, counted.fields, options.min_count), log_schema, options, report)
    if counted.fields.approximate:
        fields = ", ".join(counted.fields.approximate)
        report(f"note: {fields}: too many values to count exactly; some rare ones may get no id of their own")
    writer = PartWriter(Encoder(schema), folder, counted.rows, options.samples, native=options.native)
    sample_rows = _encode(spill, split, writer, report)
    shutil.rmtree(spill_folder)
    record = LogRecord(
        source=path.name,
        log_schema=log_schema.name,
        split=split.by,
        boundaries=split.boundaries,
        window=counted.window,
        skipped_rows=skipped,
        rows=dict(zip(PARTS, counted.rows.tolist(), strict=True)),
        clicks=dict(zip(PARTS, counted.clicks.tolist(), strict=True)),
        has_timestamps=seconds is not None,
        has_true_pctr=log_schema.true_pctr is not None,
        description=log_schema,
    )
    _write_metadata(folder, record, schema, sample_rows)
    for name in PARTS:
        report(f"{name}: {record.rows[name]:,} rows, {record.clicks[name] / record.rows[name]:.2%} clicks")


def _tell_min_counts(
    needed: dict[str, int], log_schema: LogSchema, options: _Options, report: Callable[[str], None]
) -> None:
    """Says which fields were given a smaller min_count than usual."""
    if options.min_count is not None:
        return
    chosen = {
        field.name: needed[field.name]
        for field in log_schema.fields
        if field.name in needed and field.min_count is None and needed[field.name] < MIN_COUNT
    }
    if chosen:
        told = ", ".join(f"{name} {count}" for name, count in chosen.items())
        report(f"min_count, below {MIN_COUNT} where that would leave too many rows out of vocabulary: {told}")


def _read(
    path: Path, log_schema: LogSchema, spill: Spill, options: _Options, report: Callable[[str], None]
) -> tuple[NumberCounts | None, int]:
    """Parses and checks every row once. -> rows by second if rows have a time, number of skipped rows."""
    check_weights(path, log_schema)
    seconds = None if log_schema.timestamp is None else NumberCounts()
    skipped, disagreement = 0, None
    chunks = read_log(path, log_schema, on_malformed=options.on_malformed, chunk_rows=options.chunk_rows)
    with Progress("read", report, about=rows_about(path, log_schema)) as progress:
        for chunk in chunks:
            skipped += chunk.skipped
            disagreement = chunk.disagreement
            if not len(chunk):
                continue
            if seconds is not None and chunk.timestamps is not None:
                seconds.add(pl.Series(chunk.timestamps.astype(np.float64)))
            spill.write(chunk)
            progress.add(len(chunk))
        progress.finish(f", {skipped:,} malformed rows skipped" if skipped else "")
    if not spill.rows:
        raise no_rows(path.name, skipped, disagreement)
    if disagreement is not None:
        report(f"warning: {disagreement}")
    return seconds, skipped


def _split(spill: Spill, seconds: NumberCounts | None, shares: tuple[float, ...]) -> Split:
    if seconds is None:
        return split_by_rows(spill.rows, shares)
    values, counts = seconds.table()
    return split_by_time(values.astype(np.int64), counts, shares)


@dataclass(frozen=True)
class _Counted:
    fields: FieldCounts  # of the training part
    rows: NDArray[np.int64]  # [4]
    clicks: NDArray[np.int64]  # [4]
    window: tuple[int, int] | None  # of the training part


def _count(spill: Spill, split: Split, fields: FieldCounts, report: Callable[[str], None]) -> _Counted:
    rows = np.zeros(len(PARTS), np.int64)
    clicks = np.zeros(len(PARTS), np.int64)
    window: tuple[int, int] | None = None
    with Progress("counted", report, about=spill.rows) as progress:
        for chunk in spill.read():
            part = split.part_of(chunk.first_row, chunk.timestamps, len(chunk))
            rows += np.bincount(part, minlength=len(PARTS))
            clicks += np.bincount(part[chunk.labels == 1], minlength=len(PARTS))
            training = part == 0
            if training.any():
                counted = chunk.fields if training.all() else chunk.fields.filter(pl.Series(training))
                fields.add(counted, chunk.texts)
                if chunk.timestamps is not None:
                    times = chunk.timestamps[training]
                    low, high = int(times.min()), int(times.max())
                    window = (low, high) if window is None else (min(low, window[0]), max(high, window[1]))
            progress.add(len(chunk))
        progress.finish()
    return _Counted(fields, rows, clicks, window)


def _encode(spill: Spill, split: Split, writer: PartWriter, report: Callable[[str], None]) -> list[SampleRow]:
    with Progress("encoded", report, about=spill.rows) as progress:
        for chunk in spill.read():
            writer.write(chunk, split.part_of(chunk.first_row, chunk.timestamps, len(chunk)))
            progress.add(len(chunk))
        progress.finish()
    return writer.finish()


def _write_metadata(folder: Path, record: LogRecord, schema: Schema, sample_rows: list[SampleRow]) -> None:
    for name, content in schema_to_files(schema).items():
        file = folder / "schema" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    (folder / SAMPLES).write_bytes(msgspec.json.Encoder().encode_lines(sample_rows))
    (folder / METADATA).write_bytes(encode_json(record))


def _check_out(out: Path) -> None:
    """Raises LogError if `out` exists and is not a prepared log, because it would be replaced."""
    if out.exists() and not (out / METADATA).is_file():
        raise LogError(
            f"'out' must be a new folder or a prepared log (got {str(out)!r}); name another folder"
        )
