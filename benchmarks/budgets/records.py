"""What the benchmark of budgets records: a line a trial, and the best for each budget. It runs nothing."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from export.judge.bootstrap import Delta


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """A trial of one model: its AUC on the validation part, by which it is chosen, and what it costs.

    Microseconds are those of a candidate in a request of so many, in the unit of one timing of all models.
    """

    model: str
    trial: int
    recipe: str
    graph: str
    auc: float
    microseconds: float
    bytes: int
    parameters: int


class Budget(msgspec.Struct, frozen=True, kw_only=True):
    """A limit; neither: whatever it costs."""

    microseconds: float | None = None
    bytes: int | None = None

    def holds(self, entry: Entry) -> bool:
        return (self.microseconds is None or entry.microseconds <= self.microseconds) and (
            self.bytes is None or entry.bytes <= self.bytes
        )


class Best(msgspec.Struct, frozen=True, kw_only=True):
    """The entry that a budget chooses, on the test part, which chose nothing.

    `to_free` is its AUC minus that of the entry which no budget limits, on the same rows.
    """

    budget: Budget
    entry: Entry
    auc: float
    auc_interval: tuple[float, float]
    to_free: Delta


class Failed(msgspec.Struct, frozen=True, kw_only=True):
    model: str
    reason: str


class Table(msgspec.Struct, frozen=True, kw_only=True):
    """One log: every trial, and the best for each budget that any keeps."""

    log: str
    split: str
    rows: dict[str, int]
    clicks: dict[str, int]
    machine: str
    candidates: int
    epochs: int | None
    models: tuple[str, ...]
    seconds: float
    complete: bool
    budgets: tuple[Budget, ...]
    best: tuple[Best, ...]
    entries: tuple[Entry, ...]
    failures: tuple[Failed, ...]


def best_of(entries: Sequence[Entry], budget: Budget) -> Entry | None:
    """The entry within a budget that has the highest AUC on the validation part; of equal ones the faster."""
    within = [one for one in entries if budget.holds(one)]
    return min(within, key=lambda one: (-one.auc, one.microseconds, one.bytes), default=None)
