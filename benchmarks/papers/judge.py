"""From results of cells to the rows of a table: means of seeds, and differences with intervals.

An interval holds both the rows and the seeds (`export.judge.seeds`), and all cells have the same resampled
rows. A difference is taken seed by seed.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from benchmarks.papers.cells import Cell, Figures, Table
from benchmarks.papers.results import Refused, Result
from benchmarks.papers.running import Run
from export.judge.bootstrap import resampled_aucs, resampled_loglosses
from export.judge.seeds import over_seeds

RESAMPLES = 200

Resampled = NDArray[np.float64]  # [seeds, 1 + resamples]


class Estimate(msgspec.Struct, frozen=True):
    """A figure and the ends of its 95 % interval; `seeds` is the standard deviation between them."""

    value: float
    low: float
    high: float
    seeds: float | None

    @property
    def sign(self) -> int:
        """1 or -1 where the interval leaves out 0, else 0."""
        return (self.low > 0) - (self.high < 0)


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """A row of a table: the paper's figures beside ours; `reason` says why there are none of ours."""

    row: str
    against: str
    rival: str
    note: str
    paper: Figures | None
    paper_delta: float | None
    paper_rival_delta: float | None
    seeds: int
    reason: str = ""
    auc: Estimate | None = None
    logloss: Estimate | None = None
    delta: Estimate | None = None
    logloss_delta: Estimate | None = None
    rival_delta: Estimate | None = None
    prauc: float | None = None
    rce: float | None = None
    parameters: float | None = None
    layer_parameters: float | None = None
    bytes: float | None = None
    reached: dict[str, float] = {}
    live_neurons: tuple[int, ...] = ()
    live_pairs: int | None = None
    kept: str = ""
    seconds: float = 0.0
    milliseconds: dict[str, float] = {}  # of its graph, by rows a batch
    torch_milliseconds: dict[str, float] = {}


def judged(run: Run, table: Table) -> list[Row]:
    """A row for each chosen cell, in the paper's order; a cell that is not made yet says so."""
    cells = run.cells(table)
    found = {cell.row: _Judged(run, cell) for cell in cells}
    _resample(run, list(found.values()))
    figures = {cell.row: _printed(run, table, cell) for cell in table.cells_beside(run.beside)}
    return [_row(cell, found, figures) for cell in cells]


class _Judged:
    """The results of a cell, and their figures under resampled rows: seeds by column of resamples."""

    def __init__(self, run: Run, cell: Cell) -> None:
        cabinet = run.maker.cabinet
        self.jobs = run.jobs(cell)
        outcomes = [cabinet.read(job) for job in self.jobs]
        self.reason = next((one.reason for one in outcomes if isinstance(one, Refused)), "")
        count = len(run.options.seeds)
        whole = [
            number
            for number in range(count)
            if all(isinstance(one, Result) for one in outcomes[number::count])
        ]
        if not whole and not self.reason:
            self.reason = "not run yet"
        self.seeds = [run.options.seeds[number] for number in whole]
        self.of_seed = [self.jobs[number::count] for number in whole]
        self.results = [one for number in whole for one in outcomes[number::count] if isinstance(one, Result)]
        self.target = cell.builds[0].target
        self.auc: dict[int, NDArray[np.float64]] = {}
        self.logloss: dict[int, NDArray[np.float64]] = {}


def _resample(run: Run, cells: Sequence[_Judged]) -> None:
    """Fills in each cell's figures by seed, means over its builds, [1 + resamples]."""
    cabinet = run.maker.cabinet
    for target, ground in run.grounds.items():
        mine = [cell for cell in cells if cell.target == target]
        keys = {job.key: job for cell in mine for jobs in cell.of_seed for job in jobs}
        if not keys:
            continue
        labels = np.asarray(ground.log.parts["test"].labels)
        scores = [cabinet.pctr(job) for job in keys.values()]
        aucs = dict(zip(keys, resampled_aucs(labels, scores, resamples=RESAMPLES), strict=True))
        losses = dict(zip(keys, resampled_loglosses(labels, scores, resamples=RESAMPLES), strict=True))
        for cell in mine:
            for seed, jobs in zip(cell.seeds, cell.of_seed, strict=True):
                cell.auc[seed] = np.mean([aucs[job.key] for job in jobs], axis=0)
                cell.logloss[seed] = np.mean([losses[job.key] for job in jobs], axis=0)


def estimate(by_seed: Resampled) -> Estimate:
    """The mean of the seeds with its interval; [seeds, 1 + resamples], all rows first."""
    between = statistics.stdev(by_seed[:, 0]) if len(by_seed) > 1 else None
    mean = over_seeds(by_seed)
    return Estimate(mean.delta, *mean.interval, between)


def _delta(
    mine: Mapping[int, NDArray[np.float64]], other: Mapping[int, NDArray[np.float64]]
) -> Estimate | None:
    """Of the seeds that both have."""
    shared = [seed for seed in mine if seed in other]
    return estimate(np.stack([mine[seed] - other[seed] for seed in shared])) if shared else None


def _printed(run: Run, table: Table, cell: Cell) -> Figures | None:
    return cell.paper.get(table.log or run.beside)


def _row(cell: Cell, found: Mapping[str, _Judged], figures: Mapping[str, Figures | None]) -> Row:
    mine = found[cell.row]
    printed = figures[cell.row]
    row = Row(
        row=cell.row,
        against=cell.against,
        rival=cell.rival,
        note=cell.note,
        paper=printed,
        paper_delta=_difference(printed, figures.get(cell.against)),
        paper_rival_delta=_difference(printed, figures.get(cell.rival)),
        seeds=len(mine.seeds),
        reason=mine.reason,
    )
    if not mine.results:
        return row
    return msgspec.structs.replace(row, **_ours(cell, mine, found))


def _ours(cell: Cell, mine: _Judged, found: Mapping[str, _Judged]) -> dict[str, Any]:
    first = mine.results[0]
    others: dict[str, _Judged | None] = {"": None} | dict(found)
    base, rival = others.get(cell.against), others.get(cell.rival)

    def mean(of: Any) -> float:
        return statistics.fmean(of(one) for one in mine.results)

    return {
        "auc": estimate(np.stack(list(mine.auc.values()))),
        "logloss": estimate(np.stack(list(mine.logloss.values()))),
        "delta": None if base is None else _delta(mine.auc, base.auc),
        "logloss_delta": None if base is None else _delta(mine.logloss, base.logloss),
        "rival_delta": None if rival is None else _delta(mine.auc, rival.auc),
        "prauc": mean(lambda one: one.metrics.prauc),
        "rce": mean(lambda one: one.metrics.rce),
        "parameters": mean(lambda one: one.parameters),
        "layer_parameters": mean(lambda one: one.layer_parameters),
        "bytes": mean(lambda one: one.bytes),
        "seconds": sum(one.seconds for one in mine.results),
        "reached": first.reached,
        "live_neurons": first.live_neurons,
        "live_pairs": first.live_pairs,
        "kept": first.kept,
    }


def _difference(one: Figures | None, other: Figures | None) -> float | None:
    if one is None or other is None or one.auc is None or other.auc is None:
        return None
    return round(one.auc - other.auc, 6)
