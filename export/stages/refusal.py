"""Decides on validation rows whether the pruned graph may serve in place of the dense one.

It knows logits and labels. What a calibrator mends is no loss: logits are compared after a line fitted to
each of them on the same rows.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from export.judge.bootstrap import Delta, paired_bootstrap
from export.judge.metrics import logloss, sigmoid
from export.judge.parity import AUC_TOLERANCE
from export.stages.calibration_methods import fit_platt
from export.stages.variants import DENSE

Labels = NDArray[np.uint8]
Logits = NDArray[np.float32]

LOGLOSS_TOLERANCE: Final = 0.002
"""The share of the dense graph's LogLoss that pruning may add."""


def why_refused(labels: Labels, before: Logits, after: Logits) -> str:
    """Why the pruned graph must not serve, and what to do; empty if it may.

    `labels` [n] are those of validation rows, `before` and `after` [n] the logits of the dense and the pruned
    graph. The pruned one must not serve where its AUC is more than AUC_TOLERANCE lower, or its LogLoss more
    than LOGLOSS_TOLERANCE higher, and the 95 % interval of the change over resampled rows holds no zero.
    """
    auc = paired_bootstrap(labels, before, after, "auc")
    if auc.delta < -AUC_TOLERANCE and auc.high < 0.0:
        return _told(f"loses {-auc.delta:.5f} AUC", auc)
    pctrs = _fitted(before, labels), _fitted(after, labels)
    loss = paired_bootstrap(labels, *pctrs, "logloss")
    if loss.delta > LOGLOSS_TOLERANCE * logloss(labels, pctrs[0]) and loss.low > 0.0:
        return _told(f"adds {loss.delta:.5f} LogLoss", loss)
    return ""


def _fitted(logits: Logits, labels: Labels) -> NDArray[np.float64]:
    wide = logits.astype(np.float64)
    line = fit_platt(wide, labels)
    return sigmoid(line.slope * wide + line.intercept)


def _told(loss: str, delta: Delta) -> str:
    return (
        f"{loss} against {DENSE} on the validation part (95 % interval of the change {delta.low:+.5f} to "
        f"{delta.high:+.5f}); prune less, with --preset high-performance, or not at all, with --preset none"
    )
