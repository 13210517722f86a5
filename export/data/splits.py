"""Which part of the log a row belongs to: by time where there is one, by row order else, never shuffled.

The parts follow each other: training first, then validation, calibration, test. By time a part is a range of
timestamps, so that rows of one moment stay together and an unsorted log splits as well as a sorted one.
"""

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from export.data.errors import LogError

PARTS: Final = ("train", "validation", "calibration", "test")
DEFAULT_SHARES: Final = (0.7, 0.1, 0.1, 0.1)

SplitBy = Literal["time", "row order"]


@dataclass(frozen=True)
class Split:
    """Row (or second) `boundaries[i]` is the first one of part i + 1."""

    by: SplitBy
    boundaries: tuple[int, int, int]

    def part_of(self, first_row: int, timestamps: NDArray[np.int64] | None, rows: int) -> NDArray[np.int64]:
        """-> index into PARTS of each of `rows` rows, the first of which is row `first_row` of the log."""
        if self.by == "time":
            if timestamps is None:
                raise ValueError("'timestamps' must be given for a split by time (got None)")
            keys = timestamps
        else:
            keys = np.arange(first_row, first_row + rows, dtype=np.int64)
        return np.searchsorted(np.asarray(self.boundaries), keys, side="right")


def are_shares(shares: tuple[float, ...]) -> bool:
    """Whether these are four positive shares that sum to 1."""
    return len(shares) == len(PARTS) and all(share > 0 for share in shares) and abs(sum(shares) - 1) < 1e-6


def check_shares(shares: tuple[float, ...]) -> None:
    """Raises LogError unless there are four positive shares that sum to 1."""
    if not are_shares(shares):
        raise LogError(
            f"'split' must be four positive shares that sum to 1, one for each of {PARTS} (got {shares!r})"
        )


def split_by_rows(rows: int, shares: tuple[float, ...]) -> Split:
    """Parts of consecutive rows."""
    ends = np.floor(np.cumsum(shares)[:-1] * rows + 0.5).astype(int)
    return Split("row order", (int(ends[0]), int(ends[1]), int(ends[2])))


def split_by_time(seconds: NDArray[np.int64], counts: NDArray[np.int64], shares: tuple[float, ...]) -> Split:
    """`seconds` (distinct, ascending) and their row `counts` -> boundaries nearest to the shares.

    Raises LogError with fewer distinct times than parts.
    """
    if len(seconds) < len(PARTS):
        raise LogError(
            f"'timestamp' must take at least {len(PARTS)} values for a split by time (got {len(seconds)}); "
            "leave [timestamp] out of the schema to split by row order"
        )
    before = np.concatenate([[0], np.cumsum(counts)[:-1]])  # rows before each second
    boundaries: list[int] = []
    position = 0
    for part, target in enumerate(np.cumsum(shares)[:-1] * counts.sum(), 1):
        nearest = int(np.argmin(np.abs(before - target)))
        position = min(max(nearest, position + 1), len(seconds) - len(PARTS) + part)
        boundaries.append(int(seconds[position]))
    return Split("time", (boundaries[0], boundaries[1], boundaries[2]))


def check_parts(rows: NDArray[np.int64], clicks: NDArray[np.int64], file: str) -> None:
    """rows [4], clicks [4] -> LogError where a part is empty or has one class: no metric would exist."""
    for part, total, positive in zip(PARTS, rows.tolist(), clicks.tolist(), strict=True):
        if positive == 0 or positive == total:
            raise LogError(
                f"{file}: the {part} part must hold clicks and non-clicks (got {positive:,} "
                f"clicks in {total:,} rows); give a longer log, or other shares with --split; shuffle a log "
                "without [timestamp] if it is in the order of its label"
            )
