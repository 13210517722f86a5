"""The command score: a log -> a file with a logit and a pCTR for each row, as a service would answer.

Rows stream through in chunks; memory holds a few of them, however long the log is.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import msgspec
import polars as pl

from export.bundles.files import Say, check_out_file
from export.bundles.plan import ScorePlan
from export.bundles.reading import is_text_like, log_schema_for, read_chunks
from export.bundles.scorer import Scorer
from export.data.converted import sink_parquet
from export.data.errors import no_rows
from export.data.log_schema import LogSchema
from export.data.readers import LogChunk, columns_of
from export.errors import ExportError
from service.bundle.folders import whole_file
from service.bundle.store import load_bundle

ENDINGS = (".parquet", ".csv")
ROW, LABEL, LOGIT, PCTR = "row", "label", "logit", "pctr"


class Scored(msgspec.Struct, frozen=True):
    """What a scoring did; `clicks` is None for a log without a label."""

    bundle: str
    variant: str
    data: str
    out: str
    columns: tuple[str, ...]
    rows: int
    skipped_rows: int
    clicks: int | None
    mean_pctr: float
    seconds: float


def score(plan: ScorePlan, *, say: Say = print) -> Scored:
    """The log of the plan -> its file of scores, whole or as it was; the last line is JSON.

    Its columns are the `row` (the line of a text file, the row of Parquet, from 1), those that are kept, the
    label (1: a click) where the log has one, `logit` and `pctr`. Raises ExportError, BundleError, OSError.
    """
    started = time.perf_counter()
    check_out_file(plan.out, ENDINGS, plan.data)
    bundle = load_bundle(plan.bundle)
    scorer = Scorer(bundle, plan.variant)
    schema = log_schema_for(bundle, plan).for_scores()
    _check_kept(plan, schema)
    if schema.label is None:
        width = f", its {len(schema.columns)} columns being all others" if schema.columns else ""
        say(f"{plan.data.name} has no label{width}: its rows are scored alone")
    run = _Run(plan, scorer, schema)
    frames = run.frames()
    first = next(frames, None)
    if first is None:
        raise no_rows(plan.data.name, run.skipped, run.disagreement)
    with whole_file(plan.out) as partial:
        _write(chain([first], frames), first.schema, partial)
    done = Scored(
        bundle=bundle.manifest.id,
        variant=scorer.variant,
        data=plan.data.name,
        out=str(plan.out),
        columns=tuple(first.columns),
        rows=run.rows,
        skipped_rows=run.skipped,
        clicks=None if schema.label is None else run.clicks,
        mean_pctr=run.pctr / run.rows,
        seconds=round(time.perf_counter() - started, 3),
    )
    say(_line(done))
    say(msgspec.json.encode(done).decode())
    return done


@dataclass
class _Run:
    """One pass over the log: frames of scores, and what is counted of them."""

    plan: ScorePlan
    scorer: Scorer
    schema: LogSchema
    rows: int = 0
    skipped: int = 0
    disagreement: str | None = None
    clicks: int = 0
    pctr: float = 0.0

    def frames(self) -> Iterator[pl.DataFrame]:
        for chunk in read_chunks(self.plan, self.schema, "scored", others=self.plan.keep):
            self.skipped += chunk.skipped
            self.disagreement = chunk.disagreement
            if len(chunk):
                yield self._frame(chunk)

    def _frame(self, chunk: LogChunk) -> pl.DataFrame:
        found = self.scorer.score(chunk.fields, chunk.lines)
        self.rows += len(chunk)
        self.pctr += float(found.pctr.sum())
        columns = [pl.Series(ROW, chunk.lines), *chunk.others.get_columns()]
        if chunk.labels is not None:
            self.clicks += int(chunk.labels.sum())
            columns.append(pl.Series(LABEL, chunk.labels))
        return pl.DataFrame([*columns, pl.Series(LOGIT, found.logits), pl.Series(PCTR, found.pctr)])


def _check_kept(plan: ScorePlan, schema: LogSchema) -> None:
    """Raises ExportError for a kept column that the log does not have, or that scores have of their own."""
    columns = columns_of(plan.data, schema)
    for name in plan.keep:
        if name not in columns:
            raise ExportError(
                f"'keep' must name columns of {plan.data.name} (got {name!r}); it has {', '.join(columns)}"
            )
        if name in (ROW, LABEL, LOGIT, PCTR):
            raise ExportError(
                f"'keep' must name no column that scores have of their own (got {name!r}); rename it"
            )
    if len(set(plan.keep)) < len(plan.keep):
        raise ExportError(f"'keep' must name columns once (got {','.join(plan.keep)}); leave out one")


def _write(frames: Iterator[pl.DataFrame], columns: pl.Schema, path: Path) -> None:
    if path.suffix == ".parquet":
        sink_parquet(frames, columns, path)
        return
    unfit = [name for name, dtype in columns.items() if not is_text_like(dtype)]
    if unfit:
        raise ExportError(
            f"'keep' must name columns of single values that text can hold for a .csv (got {unfit[0]!r} with "
            f"{columns[unfit[0]]}); write .parquet, or leave it out"
        )
    with path.open("wb") as file:
        for number, frame in enumerate(frames):
            frame.write_csv(file, include_header=number == 0)


def _line(done: Scored) -> str:
    of_clicks = "" if done.clicks is None else f", click rate {done.clicks / done.rows:.3%}"
    skipped = f", {done.skipped_rows:,} malformed rows skipped" if done.skipped_rows else ""
    return (
        f"scored {done.rows:,} rows by {done.variant} of {done.bundle}: mean pCTR {done.mean_pctr:.3%}"
        f"{of_clicks}{skipped}; wrote {done.out}"
    )
