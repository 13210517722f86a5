"""How a bundle reads a log: by the description of its own log, which it keeps, or by a schema that is named.

A label, a time or a true pCTR that the file does not have is done without, unless it is asked for.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Protocol

import msgspec
import polars as pl
from msgspec import structs

from export.bundles.plan import ReadPlan
from export.data.errors import LogError
from export.data.log_schema import LOG_FILE, LogSchema, load_log_schema
from export.data.progress import Progress
from export.data.readers import LogChunk, check_weights, columns_of, read_log, rows_about
from export.errors import ExportError
from service.bundle.errors import EXPORT_AGAIN, BundleError
from service.bundle.store import Bundle

CHUNK_ROWS = 65_536
TEXT_ENDINGS = {".csv": ("csv", ",", '"'), ".tsv": ("tsv", "\t", "")}


def log_schema_for(bundle: Bundle, plan: ReadPlan, *, needs_label: bool = False) -> LogSchema:
    """The schema by which the plan's log is read for this bundle.

    Its fields are the bundle's, in their order. Raises ExportError where the bundle does not say how its log
    is read and no schema is named, or where the schema lacks a field; LogError for the file, also where it
    has no label and one is needed.
    """
    told = _kept(bundle) if plan.schema is None else load_log_schema(plan.schema)
    if told is None:
        raise ExportError(
            f"'schema' must be given with the bundle {bundle.folder}, which does not say how its log is read "
            "(an earlier export wrote it); name its log's schema with --schema, or export it again"
        )
    schema = _with_fields_of(bundle, in_format_of(plan.data, told))
    found = schema.found_in(columns_of(plan.data, schema))
    if needs_label and found.label is None:
        column = "" if schema.label is None else f" '{schema.label.column}'"
        raise LogError(
            f"{plan.data.name}: the label's column{column} must be in the log to judge by it (got none); add "
            "it, or only score the log: python -m export score"
        )
    if needs_label:
        check_weights(plan.data, schema)
    return found


def read_chunks(
    plan: ReadPlan, schema: LogSchema, verb: str, *, others: tuple[str, ...] = ()
) -> Iterator[LogChunk]:
    """The chunks of the plan's log; a terminal sees how far they are, unless the plan is quiet."""
    about = rows_about(plan.data, schema) if _is_told(plan) else None
    chunks = read_log(plan.data, schema, on_malformed=plan.on_malformed, chunk_rows=CHUNK_ROWS, others=others)
    with Progress(verb, partial(tell, plan), about=about) as progress:
        for chunk in chunks:
            yield chunk
            progress.add(len(chunk))


class Told(Protocol):
    """A plan that says whether its progress is told."""

    @property
    def quiet(self) -> bool: ...


def tell(plan: Told, line: str) -> None:
    """A line of progress; it goes past the output, which other programs read."""
    if _is_told(plan):
        print(line, file=sys.stderr, flush=True)


def _is_told(plan: Told) -> bool:
    return sys.stderr.isatty() and not plan.quiet


def is_text_like(dtype: pl.DataType) -> bool:
    """Whether text can hold the values of a column: no lists, no bytes, no durations."""
    return not (dtype.is_nested() or dtype in (pl.Binary, pl.Duration, pl.Object))


def _kept(bundle: Bundle) -> LogSchema | None:
    """The description of its log that the bundle keeps."""
    if LOG_FILE not in bundle.manifest.files:
        return None
    path = bundle.folder / LOG_FILE
    try:
        return msgspec.json.decode(path.read_bytes(), type=LogSchema)
    except msgspec.MsgspecError as error:
        raise BundleError(str(path), "the description of a log", str(error), EXPORT_AGAIN) from None


def in_format_of(data: Path, schema: LogSchema) -> LogSchema:
    """The schema for the same columns as Parquet or as text, as the file's ending says; a folder is Parquet.

    A text file keeps the log's format whatever its name ends in.
    """
    if data.is_dir() or data.suffix == ".parquet":
        if schema.format == "parquet":
            return schema
        return structs.replace(schema, format="parquet", separator="", quote="", has_header=True, columns=())
    text = TEXT_ENDINGS.get(Path(data.name.removesuffix(".gz")).suffix)
    if text is not None and schema.format == "parquet":
        format_, separator, quote = text
        return structs.replace(schema, format=format_, separator=separator, quote=quote)
    return schema


def _with_fields_of(bundle: Bundle, schema: LogSchema) -> LogSchema:
    by_name = {field.name: field for field in schema.fields}
    for field in bundle.schema.fields:
        described = by_name.get(field.name)
        if described is None or described.kind is not field.kind:
            found = "no such field" if described is None else f"a {described.kind} one"
            raise ExportError(
                f"'schema' must describe the fields of {bundle.manifest.id}, with the {field.kind} field "
                f"'{field.name}' (got {found} in '{schema.name}'); name the schema of its log"
            )
    return structs.replace(schema, fields=tuple(by_name[field.name] for field in bundle.schema.fields))
