"""The command infer-schema: the first rows of a log -> a schema file that reads it, to be edited."""

from __future__ import annotations

import shlex
from contextlib import suppress
from pathlib import Path
from typing import Final

from export.data.errors import LogError
from export.data.log_schema import BUILT_IN, LogSchema, load_log_schema, parse_log_schema
from export.data.readers import read_log
from export.errors import ExportError
from export.infer.guess import Guess, guess
from export.infer.plan import InferPlan
from export.infer.sample import Sample, read_sample
from export.infer.toml_text import schema_text
from export.stages.work import Say
from service.bundle.bounds import MAX_FIELDS
from service.bundle.folders import whole_file

_TRIED_ROWS: Final = 1_000  # that a built-in schema has to read


def infer_schema(plan: InferPlan, *, say: Say = print) -> LogSchema:
    """The guess for the plan's log, printed, or written to its `out`; returns it as it is read back.

    Raises LogError for a log that cannot be read or that tells no clicks, ExportError for an `out` that is
    there already.
    """
    _check_out(plan)
    sample = read_sample(plan)
    found = guess(sample, plan.label, plan.data.name)
    if not found.fields:
        reasons = "".join(f"; '{one.column}' is left out, {one.reason}" for one in found.left_out)
        raise LogError(
            f"{plan.data.name}: must have columns to make fields of (got none beside the label{reasons})"
        )
    if len(found.fields) > MAX_FIELDS:
        raise LogError(
            f"{plan.data.name}: must have columns for at most {MAX_FIELDS:,} fields (got "
            f"{len(found.fields):,}); leave some out of the log, or put many of 0 and 1 into a list"
        )
    text = schema_text(found, sample, plan.data, known=_known(plan, sample))
    schema = parse_log_schema(text, file="the guessed schema")
    malformed = _malformed(plan, schema)
    if plan.out is None:
        say(text.removesuffix("\n"))
        return schema
    with whole_file(plan.out) as partial:
        partial.write_text(text, encoding="utf-8")
    for line in _told(plan, plan.out, found, sample, malformed):
        say(line)
    return schema


def _check_out(plan: InferPlan) -> None:
    if plan.out is None:
        return
    if plan.out.is_dir():
        raise ExportError(f"'out' must be a file (got the folder {str(plan.out)!r}); name a file in it")
    if plan.out.exists() and not plan.overwrite:
        raise ExportError(
            f"'out' must be a new file (got {str(plan.out)!r}, which is there already); name another, or "
            "replace it with --overwrite"
        )
    if plan.data.exists() and plan.out.exists() and plan.out.samefile(plan.data):
        raise ExportError(f"'out' must not be the log itself (got {str(plan.out)!r}); name another file")


def _known(plan: InferPlan, sample: Sample) -> str | None:
    """The built-in schema that reads the first rows, if one does: it names what they mean."""
    for name in BUILT_IN:
        schema = load_log_schema(name)
        columns = sample.cells.columns if sample.has_header else schema.columns
        if schema.has_header != sample.has_header or schema.format != sample.format:
            continue
        if len(columns) != sample.cells.width or not set(schema.used_columns) <= set(columns):
            continue
        with suppress(LogError):
            next(read_log(plan.data, schema, chunk_rows=_TRIED_ROWS))
            return name
    return None


def _malformed(plan: InferPlan, schema: LogSchema) -> int:
    """How many of the first rows the schema finds malformed; it has to read most of them."""
    chunk = next(read_log(plan.data, schema, on_malformed="skip", chunk_rows=plan.rows))
    return chunk.skipped


def _told(plan: InferPlan, out: Path, found: Guess, sample: Sample, malformed: int) -> list[str]:
    rows = f"all {sample.rows:,} rows" if sample.is_whole else f"the first {sample.rows:,} rows"
    candidates = sum(field.role == "candidate" for field in found.fields)
    time = f"time {found.time.timestamp.column!r}" if found.time else "no time"
    what = f"{sample.format}, label {found.label.label.column!r}, {time}"
    lines = [
        f"{plan.data.name}, by {rows}: {what}, {len(found.fields)} fields ({candidates} of the candidate)",
        *(f"left out {one.column!r}: {one.reason}" for one in found.left_out),
    ]
    if malformed:
        lines.append(
            f"{malformed:,} of the rows read are malformed by it; leave them out with --on-malformed skip"
        )
    if not sample.is_whole:
        lines.append("later rows were not looked at: --rows reads more of them")
    lines.append(f"wrote {out}: read it, edit it, then")
    words = ("--data", str(plan.data), "--schema", str(out), "--out", f"artifacts/{out.stem}")
    lines.append(f"python -m export run {shlex.join(words)}")
    return lines
