"""The stage fit-schema: the raw log -> rows as ids, with encodings fitted on the training part."""

from __future__ import annotations

import hashlib

from export.data.encoded import open_log, prepare_log
from export.data.log_schema import load_log_schema
from export.judge.fields import describe_fields, field_warnings, unseen_lines
from export.stages.plan import LogPlan
from export.stages.records import LogSummary
from export.stages.work import Say, Work

LOG_KEY = "log-key.txt"


def fit_schema(work: Work, plan: LogPlan, *, say: Say = print) -> LogSummary:
    """The raw log -> WORK/log. The folder is cleared only when the new log is complete."""
    log_schema = load_log_schema(plan.schema)
    work.claim()
    fresh = work.folder / "log.new"
    prepare_log(
        plan.data,
        log_schema,
        fresh,
        split=plan.split,
        on_malformed=plan.on_malformed,
        min_count=plan.min_count,
        report=say,
    )
    work.start("fit-schema")
    fresh.rename(work.folder / "log")
    log = open_log(work.path("log"))
    fields = describe_fields(log)
    for line in unseen_lines(fields):
        say(line)
    for warning in field_warnings(fields):
        say(f"warning: {warning}")
    summary = LogSummary(
        source=log.source,
        schema=log_schema.name,
        split=log.split,
        rows={name: len(part) for name, part in log.parts.items()},
        clicks={name: part.clicks for name, part in log.parts.items()},
        skipped_rows=log.skipped_rows,
        window=log.window,
        columns=log.schema.columns,
        fields=fields,
        options=plan.log_options,
    )
    work.record("fit-schema", summary)
    return summary


def kept_log(work: Work, plan: LogPlan, *, say: Say = print) -> tuple[LogSummary, str]:
    """The encoded log in the work folder, that of an earlier run if it had the same inputs; their hash."""
    stat = plan.data.stat()
    inputs = (
        str(plan.data.resolve()),
        stat.st_size,
        stat.st_mtime_ns,
        repr(load_log_schema(plan.schema)),
        plan.split,
        plan.on_malformed,
        plan.min_count,
    )
    key = hashlib.sha256(repr(inputs).encode()).hexdigest()
    kept = work.folder / LOG_KEY
    if kept.is_file() and kept.read_text() == key and work.has("log") and work.has("fit-schema.json"):
        say("kept from an earlier run")
        return work.read_record("fit-schema", LogSummary), key
    kept.unlink(missing_ok=True)
    summary = fit_schema(work, plan, say=say)
    work.write(LOG_KEY, key.encode())
    return summary, key
