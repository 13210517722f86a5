"""Which columns describe the request and the user, and which the ad: by what repeats, then by names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import polars as pl

from export.infer import names
from export.infer.column import is_text_like
from export.infer.evidence import FIXED_SHARE, VARIES_SHARE, fixed_share, varying
from service.bundle.schema import Role

_MOST_OF_ONE_USER: Final = 0.5  # of the rows; more is a word for "unknown"
_FEW_ERRORS: Final = 0.05  # of those of a guess without the key
_SEVERAL_ADS: Final = 0.9  # of what shares user and second have several ads, if these are requests


@dataclass(frozen=True, eq=False)
class Roles:
    """A log's rows, and the columns that tell users, ads and requests apart, where they are known."""

    frame: pl.DataFrame
    user: str | None
    item: str | None
    request: tuple[str, ...]
    request_id: str | None

    @classmethod
    def of(cls, cells: pl.DataFrame, columns: list[str], time: str | None) -> Roles:
        """The keys among `columns`, by their names; rows of one user and second are a request too."""
        user, item, request_id = (
            names.first_of(known, columns) for known in (names.USERS, names.ITEMS, names.REQUESTS)
        )
        if user is not None and _largest_share(cells[user]) > _MOST_OF_ONE_USER:
            user = None
        frame = cells.select(_comparable(cells[name]) for name in cells.columns)
        request: tuple[str, ...] = (request_id,) if request_id is not None else ()
        if not request and user is not None and time is not None and item is not None:
            found = varying(frame, [user, time], item)
            request = (user, time) if found is not None and found.share >= _SEVERAL_ADS else ()
        return cls(frame, user, item, request, request_id)

    def of_column(self, name: str) -> tuple[Role, str]:
        """The role of a column, and why."""
        if name == self.user:
            return Role.CONTEXT, "it is the user"
        if name == self.item:
            return Role.CANDIDATE, "by its name it is the ad"
        if self.request and (found := varying(self.frame, list(self.request), name)) is not None:
            rows = f"{found.requests:,} requests of several rows (the same {' and '.join(self.request)})"
            if found.share > VARIES_SHARE:
                return Role.CANDIDATE, f"it differs within {found.share:.0%} of {rows}"
            return Role.CONTEXT, f"it is the same within {1 - found.share:.0%} of {rows}"
        fixed = {key: self._fixes(key, name) for key in (self.user, self.item) if key is not None}
        if [by for by, is_fixed in fixed.items() if is_fixed] == [self.item]:
            return Role.CANDIDATE, f"it follows from {self.item}"
        if [by for by, is_fixed in fixed.items() if is_fixed] == [self.user]:
            return Role.CONTEXT, f"it follows from {self.user}"
        named = names.role_of(name)
        if named is not None:
            return Role(named), "by its name"
        return Role.CONTEXT, "nothing says that it is the ad's"

    def counts_rows(self, name: str, least: float) -> bool:
        """Whether a column of numbers counts each user's rows, by so many of them at least."""
        if self.user is None or name == self.user:
            return False
        numbers = pl.col(name).cast(pl.Float64, strict=False)
        steps = self.frame.select(numbers.diff().over(self.user)).to_series().drop_nulls()
        return len(steps) > 0 and bool((steps == 1).mean() >= least)  # type: ignore[operator]

    def _fixes(self, key: str, name: str) -> bool:
        share = fixed_share(self.frame, key, name)
        if share is None or share < FIXED_SHARE:
            return False
        return 1 - share <= _FEW_ERRORS * (1 - _largest_share(self.frame[name]))


def _largest_share(cells: pl.Series) -> float:
    """The share of the rows that the most frequent cell has."""
    counts = cells.value_counts()[:, 1]
    return int(counts.max() or 0) / max(1, len(cells))  # type: ignore[arg-type]


def _comparable(cells: pl.Series) -> pl.Series:
    """Cells that can be grouped by: a list as one text."""
    if isinstance(cells.dtype, pl.List) and is_text_like(cells.dtype):
        return cells.cast(pl.List(pl.String)).list.join("|", ignore_nulls=True)
    return cells
