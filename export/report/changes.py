"""Says in lines how AUC and LogLoss change from one model or graph to another. It decides nothing."""

from __future__ import annotations

from typing import Protocol

from service.bundle.manifest import FloatLayers, Parity


class Change(Protocol):
    """The differences of two metrics on the same rows, with 95 % intervals."""

    @property
    def auc_delta(self) -> float: ...
    @property
    def auc_interval(self) -> tuple[float, float]: ...
    @property
    def logloss_delta(self) -> float: ...
    @property
    def logloss_interval(self) -> tuple[float, float]: ...


def change_line(change: Change) -> str:
    """`AUC +0.00100 (95 % interval -0.00200 to +0.00400), LogLoss -0.00010 (-0.00100 to +0.00080)`."""
    (low, high), (least, most) = change.auc_interval, change.logloss_interval
    return (
        f"AUC {change.auc_delta:+.5f} (95 % interval {low:+.5f} to {high:+.5f}), "
        f"LogLoss {change.logloss_delta:+.5f} ({least:+.5f} to {most:+.5f})"
    )


def step_line(step: Parity) -> str:
    """What a step from one graph to another changes."""
    return f"{step.variant} against {step.reference}: {change_line(step)}"


def float_layer_lines(told: FloatLayers) -> list[str]:
    """Which layers stay float32, why, and what that costs."""
    layers = [
        f"{layer.name} of {layer.shape[0]} x {layer.shape[1]} stays float32: INT8 of it alone moves the AUC "
        f"of validation rows by {layer.auc_delta:+.5f}"
        for layer in told.layers
    ]
    times = ", ".join(f"{time:+.2f} at batch {size}" for size, time in told.microseconds_a_row.items())
    before, after = told.auc_deltas
    cost = (
        f"so INT8 of layers moves it by {after:+.5f} in place of {before:+.5f}, for {told.bytes:,} bytes "
        f"more; microseconds a row: {times}"
    )
    return [*layers, cost]
