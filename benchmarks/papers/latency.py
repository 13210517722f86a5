"""Times the graphs of a table's rows in turns, and PyTorch where nothing but training made the model.

All are timed in one run, so their ratios hold on a busy machine; times are kept until a graph changes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgspec
import numpy as np

from benchmarks.papers.cells import Cell, Table
from benchmarks.papers.make import Maker
from benchmarks.papers.results import Job, Result
from benchmarks.papers.running import Run
from export.data.encoded import EncodedLog
from export.errors import ExportError
from export.graph.runtime import Scorer, graph_scorer, microseconds_a_row, of_own_rows, torch_scorer
from export.report.machine import machine
from export.stages.dense_twin import dense_checkpoint
from export.stages.work import hash_of
from export.train.checkpoint import load_checkpoint
from service.bundle.folders import replacing
from service.bundle.json_files import encode_json

TORCH = ", PyTorch"
Times = Mapping[str, Mapping[str, float]]


def milliseconds(run: Run, table: Table, say: Callable[[str], None]) -> Times:
    """By row (with `, PyTorch` for PyTorch), milliseconds a batch by its rows; the first seed's models."""
    if not table.batches:
        return {}
    maker = run.maker
    timed = [(cell, job) for cell in run.cells(table) if (job := _ready(run, maker, cell)) is not None]
    key = hash_of([[job.key for _, job in timed], table.batches, machine()])[:20]
    path = run.options.out / "times" / f"{table.name}-{key}.json"
    if path.exists():
        return msgspec.json.decode(path.read_bytes(), type=dict[str, dict[str, float]])
    say(f"timing {len(timed)} rows of table {table.name}")
    log = run.grounds[timed[0][1].build.target].log if timed else None
    if log is None:
        return {}
    scorers: dict[str, Scorer] = {}
    for cell, job in timed:
        try:
            scorers |= _scorers(maker, cell, job, log, table.batches)
        except ExportError as error:
            say(f"{table.name}/{cell.row}: not timed: {error}")
    rows = np.array(log.parts["test"].ids[: max(table.batches)])
    found = microseconds_a_row(scorers, rows, table.batches)
    times = {
        name: {batch: each * int(batch) / 1e3 for batch, each in by_batch.items()}
        for name, by_batch in found.items()
    }
    with replacing(path) as incoming:
        incoming.write_bytes(encode_json(times))
    return times


def _ready(run: Run, maker: Maker, cell: Cell) -> Job | None:
    """The first seed's job of a row, if it has a result."""
    job = run.jobs(cell)[0]
    return job if isinstance(maker.cabinet.result(job), Result) else None


def _scorers(
    maker: Maker, cell: Cell, job: Job, log: EncodedLog, batches: Sequence[int]
) -> dict[str, Scorer]:
    variant = maker.graph(job)
    ids = variant.ids(np.array(log.parts["test"].ids[: max(batches)]))
    found: dict[str, Scorer] = {cell.row: of_own_rows(graph_scorer(variant.graph), ids, batches)}
    if not job.build.rates and not job.build.quantization:
        work = maker.cabinet.work(job)
        network = load_checkpoint(dense_checkpoint(work), log.schema).model
        found[f"{cell.row}{TORCH}"] = of_own_rows(torch_scorer(network), ids, batches)
    return found
