"""The figures of one log: each model's metrics, and intervals of what Bidlight's are better or worse by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.contender import DEFAULT, SCIKIT, TUNED, Contender
from benchmarks.peers.kept import Run, shown
from export.judge.bootstrap import Delta, resampled_aucs, resampled_loglosses

OURS = (DEFAULT, TUNED)


class Line(msgspec.Struct, frozen=True):
    """One model of one library; metrics are means over its seeds.

    `beside` has, for Bidlight's default and tuned models, the gaps of AUC and LogLoss to this one.
    """

    model: str
    by: str
    chosen: str
    seeds: int
    auc: float
    logloss: float
    epochs: float
    epoch_seconds: float | None
    grid_seconds: float | None  # an epoch's, the median over the points of the grid, all of one batch
    to_lr: Delta | None  # its LogLoss over that of scikit-learn's regression, minus 1
    beside: dict[str, tuple[Delta, Delta]]


class Table(msgspec.Struct, frozen=True):
    """One log: its rows, what all models share, and a line a model."""

    log: str
    split: str
    rows: dict[str, int]
    clicks: dict[str, int]
    dim: int
    hidden_units: tuple[int, ...]
    batch_size: int
    resamples: int
    machine: str
    lines: list[Line]


@dataclass(frozen=True)
class Fits:
    """A contender's best settings, fitted with each seed, and all settings with the first one."""

    contender: Contender
    runs: Sequence[Run]
    tried: Sequence[Run]


def lines(labels: NDArray[Any], fits: Sequence[Fits], *, resamples: int) -> list[Line]:
    """A line for each, in order. A resample draws the same rows for all models and all seeds.

    A resampled metric is the mean over the seeds, so an interval is that of the mean: it says what other
    rows would change, and of other seeds only what their number leaves of their differences.
    """
    resampled = [_means(labels, one, resamples) for one in fits]
    places = {(one.contender.model, one.contender.by): place for place, one in enumerate(fits)}
    regression = places.get(("lr", SCIKIT))
    found = []
    for one, (aucs, losses) in zip(fits, resampled, strict=True):
        model, by = one.contender.model, one.contender.by
        kept = [run.kept for run in one.runs]
        beside = {
            ours: (Delta.of(resampled[place][0] - aucs), Delta.of(resampled[place][1] - losses))
            for ours in OURS
            if ours != by and (place := places.get((model, ours))) is not None
        }
        found.append(
            Line(
                model=model,
                by=by,
                chosen=shown(kept[0].settings),
                seeds=len(kept),
                auc=float(aucs[0]),
                logloss=float(losses[0]),
                epochs=float(np.mean([each.epochs for each in kept])),
                epoch_seconds=_median_seconds(one.runs),
                grid_seconds=_median_seconds([run for run in one.tried if _is_of_grid(run)]),
                to_lr=None if regression is None else Delta.of(losses / resampled[regression][1] - 1),
                beside=beside,
            )
        )
    return found


def _median_seconds(runs: Sequence[Run]) -> float | None:
    seconds = [run.kept.epoch_seconds for run in runs if run.kept.epoch_seconds is not None]
    return float(np.median(seconds)) if seconds else None


def _is_of_grid(run: Run) -> bool:
    """Whether the settings say how many rows a step has: that of the grid."""
    return "batch_size" in {**run.kept.settings, **run.kept.settings.get("training", {})}


def _means(labels: NDArray[Any], fits: Fits, resamples: int) -> tuple[NDArray[np.float64], ...]:
    """AUC and LogLoss, each [1 + resamples], means over the seeds."""
    scores = [run.test for run in fits.runs]
    return tuple(
        metric(labels, scores, resamples=resamples).mean(axis=0)
        for metric in (resampled_aucs, resampled_loglosses)
    )
