"""A run: which cells of which tables, on which logs, with which seeds; it makes them in order."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.papers.cells import Cell, Paper, Table
from benchmarks.papers.logs import given_log, made_logs
from benchmarks.papers.make import Maker
from benchmarks.papers.results import Cabinet, Job, Refused, Result
from benchmarks.papers.settle import Fields, settled
from export.data.encoded import EncodedLog, open_log
from export.data.progress import Bar
from export.stages.records import LogSummary
from export.stages.work import Say, Work

Outcome = Result | Refused


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a run is asked for; `tables` and `pattern` choose cells, the rest decides what comes of them."""

    paper: Paper
    data: Path
    schema: str
    out: Path
    tables: Sequence[str] = ()
    pattern: str = "*"
    seeds: Sequence[int] = (0,)
    rows: int | None = None
    epochs: int | None = None
    as_paper: bool = False
    conditions: Sequence[str] = ()
    beside: str = ""
    most_parameters: int = 60_000_000

    @property
    def settings(self) -> dict[str, Any]:
        """What decides a cell beside its build, its seed and its log."""
        training = dict(self.paper.training) if self.as_paper else {}
        return {"training": training, "as_paper": self.as_paper, "epochs": self.epochs}


@dataclass(frozen=True)
class Ground:
    """A log as cells are made on it; `target` is that of a made one."""

    work: Work
    summary: LogSummary
    log: EncodedLog
    fields: Fields


@dataclass(frozen=True)
class Run:
    """The chosen cells of a paper on their logs."""

    options: Options
    grounds: dict[str, Ground]
    beside: str  # the paper's log that ours is shown beside
    is_like: bool  # and whether it is of the same data

    @classmethod
    def of(cls, options: Options, say: Say) -> Run:
        """Encodes the logs that the chosen tables need. Raises ExportError."""
        chosen = _chosen(options)
        logs: dict[str, tuple[Work, LogSummary]] = {}
        if any(not table.made for table in chosen):
            logs[""] = given_log(options.out, options.data, options.schema, options.rows, say)
        if any(table.made for table in chosen):
            logs |= made_logs(options.out / "made", options.rows, 0, say)
        grounds = {
            target: _ground(work, summary, () if target else options.conditions)
            for target, (work, summary) in logs.items()
        }
        first = next(iter(grounds.values()))
        beside, is_like = options.paper.log_like(first.summary.schema)
        return cls(options, grounds, options.beside or beside, is_like)

    @property
    def maker(self) -> Maker:
        logs = {target: ground.work for target, ground in self.grounds.items()}
        return Maker(Cabinet(self.options.out), logs, self.options.most_parameters)

    @property
    def tables(self) -> list[Table]:
        return _chosen(self.options)

    def cells(self, table: Table) -> list[Cell]:
        """The chosen rows of a table, with those that they are compared with."""
        every = table.cells_beside(self.beside)
        wanted = {
            name
            for cell in every
            if fnmatch.fnmatch(f"{table.name}/{cell.row}", self.options.pattern)
            for name in (cell.row, cell.against, cell.rival)
        }
        return [cell for cell in every if cell.row in wanted]

    def jobs(self, cell: Cell) -> list[Job]:
        """A job for each build and seed, build by build."""
        found = []
        for build in cell.builds:
            ground = self.grounds[build.target]
            ready = settled(build, ground.log.schema, ground.fields)
            summary, settings = ground.summary, self.options.settings
            found += [Job(ready, seed, summary.key, summary.source, settings) for seed in self.options.seeds]
        return found

    def make(self, number: int, say: Say) -> None:
        """Makes what is missing of all cells with the seed of this number."""
        maker, count = self.maker, len(self.options.seeds)
        planned = [
            (f"{table.name}/{cell.row}", job)
            for table in self.tables
            for cell in self.cells(table)
            for job in self.jobs(cell)[number::count]
        ]
        made = dict[str, Outcome]()
        with Bar("cells", len(planned), unit="cells", whole=True) as bar:
            for name, job in planned:
                bar.add(1)
                if job.key in made or maker.cabinet.result(job) is not None:
                    continue
                made[job.key] = maker.make(job)
                say(f"{name}, seed {job.seed}: {_told(made[job.key])}")


def _ground(work: Work, summary: LogSummary, conditions: Sequence[str]) -> Ground:
    log = open_log(work.path("log"))
    return Ground(work, summary, log, Fields.of(log.schema, conditions))


def _chosen(options: Options) -> list[Table]:
    tables = options.paper.tables
    return [table for table in tables if not options.tables or table.name in options.tables]


def _told(outcome: Outcome) -> str:
    if isinstance(outcome, Refused):
        return f"not made: {outcome.reason}"
    return f"AUC {outcome.metrics.auc:.4f}, LogLoss {outcome.metrics.logloss:.4f}, {outcome.seconds:.0f} s"
