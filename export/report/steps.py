"""Says in a line what a step from one graph to another changes. It knows no tolerance and decides nothing."""

from __future__ import annotations

from service.bundle.manifest import Parity


def step_line(change: Parity) -> str:
    """The changes of AUC and LogLoss with their intervals: `pruned against float32: AUC +0.004 (95 % ...`."""
    auc = _change(change.auc_delta, change.auc_interval)
    logloss = _change(change.logloss_delta, change.logloss_interval)
    return f"{change.variant} against {change.reference}: AUC {auc}, LogLoss {logloss}"


def _change(delta: float, interval: tuple[float, float]) -> str:
    low, high = interval
    return f"{delta:+.5f} (95 % interval {low:+.5f} to {high:+.5f})"
