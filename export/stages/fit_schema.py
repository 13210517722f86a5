"""The stage fit-schema: the raw log -> rows as ids, with encodings fitted on the training part."""

from __future__ import annotations

import hashlib

from export.data.encoded import open_log, prepare_log
from export.data.growth import Changes, Growth
from export.data.log_schema import LogSchema, load_log_schema
from export.data.readers import stamp_of
from export.judge.fields import describe_fields, field_warnings, unseen_lines
from export.judge.metrics import lack_of_evidence
from export.stages.plan import LogPlan
from export.stages.records import LogSummary
from export.stages.work import Say, Work


def fit_schema(work: Work, plan: LogPlan, *, growth: Growth | None = None, say: Say = print) -> LogSummary:
    """The raw log -> WORK/log. The folder is cleared only when the new log is complete.

    With `growth` its vocabularies and bins go on from those of an earlier log.
    """
    log_schema = load_log_schema(plan.schema)
    work.claim()
    key = _key(plan, log_schema)  # of the data before they are read
    fresh = work.folder / "log.new"
    prepare_log(
        plan.data,
        log_schema,
        fresh,
        split=plan.split,
        on_malformed=plan.on_malformed,
        min_count=plan.min_count,
        growth=growth,
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
        key=key if growth is None else "",
        earlier_rows=0 if log.past is None else log.past.rows,
        changes=None if growth is None else Changes.of(growth.past.schema, log.schema),
        data=str(plan.data.resolve()),
    )
    for warning in few_warnings(summary):
        say(f"warning: {warning}")
    work.record("fit-schema", summary)
    return summary


def few_warnings(summary: LogSummary) -> tuple[str, ...]:
    """Of the parts by which models and graphs are chosen and calibrated: those of too few clicks for that."""
    purposes = {"validation": "chosen by", "calibration": "fitted to"}
    return tuple(
        f"the {name} part has {few}: what is {purpose} it is luck; take a longer log, or give it a larger "
        "share with --split"
        for name, purpose in purposes.items()
        if (few := lack_of_evidence(summary.clicks[name], summary.rows[name]))
    )


def kept_log(work: Work, plan: LogPlan, *, say: Say = print) -> LogSummary:
    """The encoded log in the work folder: the one that is there if it had the same inputs, else a new one."""
    if work.has("log") and work.has("fit-schema.json"):
        kept = work.read_record("fit-schema", LogSummary)
        key = _key(plan, load_log_schema(plan.schema))
        if key and kept.key == key:
            say("kept from an earlier run")
            return kept
    return fit_schema(work, plan, say=say)


def _key(plan: LogPlan, log_schema: LogSchema) -> str:
    """A hash of what decides the encoded log: other data, schema, split or rule of reading has another.

    Empty for data that cannot be told apart.
    """
    stamp = stamp_of(plan.data)
    if not stamp:
        return ""
    inputs = (
        stamp,
        repr(log_schema),
        plan.split,
        plan.on_malformed,
        plan.min_count,
    )
    return hashlib.sha256(repr(inputs).encode()).hexdigest()
