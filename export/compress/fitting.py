"""How the default preset follows a log's rows. It knows no model, and imports no torch."""

from __future__ import annotations

PRUNED_ROWS = 250_000
"""Training rows from which on pruning is the default; docs/pruning.md has what was measured."""

LARGE_LOG_PRESET, SMALL_LOG_PRESET = "low-latency", "none"


def fitting_preset(rows: int) -> str:
    """The preset for a training part of this many rows.

    A small log does not show what a pruning costs: its validation part cannot tell a loss from noise.
    """
    return LARGE_LOG_PRESET if rows >= PRUNED_ROWS else SMALL_LOG_PRESET
