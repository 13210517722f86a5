"""Decides on validation rows which graphs may serve: each step from a graph to a smaller one, by one rule.

The steps are dense -> pruned, then -> INT8 from the float graph that it is made of and from the dense one, so
that two small losses do not add up. What a calibrator mends is no loss: LogLoss is compared after a line
fitted to the logits of each graph on the same rows. It does not know how graphs are made or how fast they
are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from export.data.encoded import Part
from export.judge.metrics import logloss, sigmoid
from export.judge.parity import AUC_TOLERANCE, compare_variants
from export.stages.calibration_methods import fit_platt
from export.stages.variants import Variant
from service.bundle.manifest import Parity

Labels = NDArray[np.uint8]
Logits = NDArray[np.float32]

LOGLOSS_TOLERANCE: Final = 0.002
"""The share of the LogLoss of the graph before that a step may add."""


@dataclass(frozen=True)
class Step:
    """A change from one graph to another on validation rows; `loss` says why the second must not serve."""

    change: Parity
    loss: str


class Ladder:
    """Takes steps on the rows of one part; each graph scores them once."""

    def __init__(self, part: Part) -> None:
        self._part = part
        self._logits: dict[str, Logits] = {}

    def step(self, reference: Variant, variant: Variant) -> Step:
        """The change from `reference` to `variant`, judged."""
        names = reference.name, variant.name
        return take_step(names, np.asarray(self._part.labels), self._score(reference), self._score(variant))

    def _score(self, variant: Variant) -> Logits:
        if variant.name not in self._logits:
            self._logits[variant.name] = variant.score(self._part)
        return self._logits[variant.name]


def take_step(names: tuple[str, str], labels: Labels, before: Logits, after: Logits) -> Step:
    """The change from one graph to another, `names` being (reference, variant), on rows with these labels.

    `labels` [n] are those of validation rows, `before` and `after` [n] the graphs' logits. The variant must
    not serve where the rows show a loss of more than AUC_TOLERANCE, or of more than LOGLOSS_TOLERANCE. The
    interval of the change says how sure that is, and decides nothing: where the rows cannot tell a loss from
    noise, a wrong yes costs clicks and a wrong no microseconds, so the reference stays.
    """
    pctrs = fitted_pctr(before, labels), fitted_pctr(after, labels)
    change = compare_variants(names, labels, (before, after), pctrs)
    return Step(change, _loss(change, logloss(labels, pctrs[0])))


def fitted_pctr(logits: NDArray[np.floating[Any]], labels: Labels) -> NDArray[np.float64]:
    """pCTR [n] of logits [n] after a line fitted to these rows: what a calibrator mends is mended."""
    wide = logits.astype(np.float64)
    line = fit_platt(wide, labels)
    return sigmoid(line.slope * wide + line.intercept)


def _loss(change: Parity, logloss_before: float) -> str:
    if not change.auc_delta >= -AUC_TOLERANCE:  # NaN is a loss
        low, high = change.auc_interval
        return _told(f"loses {-change.auc_delta:.5f} AUC", change, low, high, sure=high < 0.0)
    if not change.logloss_delta <= LOGLOSS_TOLERANCE * logloss_before:
        low, high = change.logloss_interval
        return _told(f"adds {change.logloss_delta:.5f} LogLoss", change, low, high, sure=low > 0.0)
    return ""


def _told(loss: str, change: Parity, low: float, high: float, *, sure: bool) -> str:
    unsure = "" if sure else "; the rows cannot tell that from noise, and the larger graph is the safe one"
    return (
        f"{loss} against {change.reference} on the validation part "
        f"(95 % interval of the change {low:+.5f} to {high:+.5f}{unsure})"
    )
