"""How the default preset follows a log's rows and what pruning can remove. It imports no torch."""

from __future__ import annotations

PRESETS_BY_ROWS = {1_000_000: "low-latency", 65_536: "high-performance", 0: "none"}
"""The preset by the least training rows that it is the default for, most rows first.

docs/pruning.md has what was measured.
"""


def fitting_preset(rows: int, *, shrinks: bool = True) -> str:
    """The preset for a training part of this many rows and a model that pruning makes smaller, or not.

    The fewer rows, the less a log can fit anew after a pruning, and the less its validation part can tell of
    what was lost. A model that gets no smaller has nothing to win for that.
    """
    if not shrinks:
        return "none"
    return next(preset for least, preset in PRESETS_BY_ROWS.items() if rows >= least)


def rule_in_words() -> str:
    """The rule in words: `low-latency from 1,000 training rows on, none below, and for models ...`."""
    *others, (_, smallest) = PRESETS_BY_ROWS.items()
    bounds = ", ".join(f"{preset} from {least:,} on" for least, preset in others)
    return f"by training rows: {bounds}, {smallest} below, and for models that pruning makes no smaller"
