"""How the default preset follows a log's rows. It knows no model, and imports no torch."""

from __future__ import annotations

PRESETS_BY_ROWS = {1_000_000: "low-latency", 65_536: "high-performance", 0: "none"}
"""The preset by the least training rows that it is the default for, most rows first.

docs/pruning.md has what was measured.
"""


def fitting_preset(rows: int) -> str:
    """The preset for a training part of this many rows.

    The fewer rows, the less a log can fit anew after a pruning, and the less its validation part can tell of
    what was lost.
    """
    return next(preset for least, preset in PRESETS_BY_ROWS.items() if rows >= least)


def rule_in_words() -> str:
    """The rule in words: `low-latency from 1,000 training rows on, none below`."""
    *others, (_, smallest) = PRESETS_BY_ROWS.items()
    bounds = ", ".join(f"{preset} from {least:,} on" for least, preset in others)
    return f"by training rows: {bounds}, {smallest} below"
