"""Fits an offset in log-odds for each value of one field, shrunk to the whole; knows logits, labels and ids.

AdaCalib (Wei et al., "Posterior Probability Matters: Doubly-Adaptive Calibration for Neural Predictions in
Online Advertising", SIGIR 2022) gives each value of a field a monotone function of the prediction, which a
network makes of posterior statistics of bins. MBCT (Huang et al., "MBCT: Tree-Based Feature-Aware Binning for
Individual Uncertainty Calibration", WWW 2022) finds bins by several fields with boosted trees. Here a value
has one number, since its rows seldom tell more; empirical Bayes says how far that is shrunk, in place of a
network; and a person names the one field, where MBCT searches.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from export.errors import ExportError
from export.judge.metrics import sigmoid
from export.stages.calibration_methods import fit_offset, offset_to
from service.bundle.schema import Kind

Ids = NDArray[np.integer[Any]]
Logits = NDArray[np.floating[Any]]
Labels = NDArray[np.integer[Any]]

# A standard deviation of the offsets below this one is none.
LEAST_SPREAD = 0.01
# Of Newton's steps, and of the spread they go with.
MAX_STEPS, LONGEST_STEP, SPREAD_TOLERANCE = 100, 1.0, 1e-4


class _NamedField(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def kind(self) -> Kind: ...


@dataclass(frozen=True, eq=False)
class Segments:
    """The ids [n] that rows have in one field."""

    field: str
    ids: Ids


@dataclass(frozen=True, eq=False)
class Offsets:
    """The offset of each id that was seen, ids [k] ascending; `spread` is their deviation a priori."""

    ids: Ids
    values: NDArray[np.float64]
    spread: float

    def of(self, ids: Ids) -> NDArray[np.float64]:
        """Offsets [n] of ids [n], 0 for one that was not seen."""
        if not len(self.ids):
            return np.zeros(len(ids))
        places = np.minimum(np.searchsorted(self.ids, ids), len(self.ids) - 1)
        return np.where(self.ids[places] == ids, self.values[places], 0.0)

    def pairs(self) -> tuple[tuple[int, float], ...]:
        """(id, offset) as calibration.json has them."""
        return tuple(zip(self.ids.tolist(), self.values.tolist(), strict=True))


def fit_offsets(logits: Logits, labels: Labels, ids: Ids) -> Offsets:
    """What the calibrated logits [n] lack by id [n]: mostly nothing where rows or clicks are few.

    Offsets are a priori normal around 0, the level of all rows; their spread is that of largest marginal
    likelihood in Laplace's approximation, by MacKay's fixed point: the sum of squared offsets over the number
    of offsets that the rows determine ("Bayesian interpolation", 1992). All offsets together leave the mean
    prediction of these rows as it is: how far the level follows them is decided elsewhere.
    """
    seen, rows = np.unique(ids, return_inverse=True)
    centred = logits + fit_offset(logits, labels)[0]
    clicks = np.bincount(rows, labels, len(seen))
    offsets, variance = np.zeros(len(seen)), 1.0
    for _ in range(MAX_STEPS):
        pctr = sigmoid(centred + offsets[rows])
        information = np.bincount(rows, pctr * (1 - pctr), len(seen))
        slope = clicks - np.bincount(rows, pctr, len(seen)) - offsets / variance
        step = slope / (information + 1 / variance)
        offsets = offsets + np.clip(step, -LONGEST_STEP, LONGEST_STEP)
        determined = float((information / (information + 1 / variance)).sum())
        before, variance = variance, float(offsets @ offsets) / determined if determined else 0.0
        if variance < LEAST_SPREAD**2:
            return Offsets(seen[:0], offsets[:0], 0.0)
        if abs(variance / before - 1) < SPREAD_TOLERANCE and np.abs(step).max() < SPREAD_TOLERANCE:
            break
    level = offset_to(logits + offsets[rows], float(sigmoid(logits).mean()))
    return Offsets(seen, offsets + level, float(np.sqrt(variance)))


def check_segment_field(name: str | None, fields: Iterable[_NamedField]) -> None:
    """Raises ExportError unless the rows have one value each in the field `name`; None is no field."""
    kinds = {field.name: field.kind for field in fields}
    if name is None:
        return
    if name not in kinds:
        raise ExportError(
            f"'calibrate_by' must be a field of the log (got {name!r}); name one of {_listed(list(kinds))}"
        )
    if kinds[name] is Kind.SEQUENCE:
        single = [other for other, kind in kinds.items() if kind is not Kind.SEQUENCE]
        raise ExportError(
            f"'calibrate_by' must be a field with one value a row (got the sequence {name!r}); "
            f"name one of {_listed(single)}"
        )


def _listed(names: Sequence[str], most: int = 20) -> str:
    return ", ".join([*names[:most], *(["..."] if len(names) > most else [])]) or "none"
