"""How often each field was missing in the rows of late, beside the training part; it knows no metric.

A bundle that shares hardly a field with what clients send answers every request, and none of them well.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

logger = logging.getLogger("bidlight")

# So many rows, of so many requests, are judged together.
ROWS_JUDGED, REQUESTS_JUDGED = 1000, 200
# Shares that differ by as much are far apart, and are so until they differ by less than the second.
FAR, NEAR = 0.5, 0.25
FIELDS_NAMED = 5


class MissingShares:
    """The shares of rows without a value, by field, of an arm.

    `trained` are those of the training part, none for a bundle that does not say. Fields whose shares come to
    be far apart are logged once, in one line.
    """

    def __init__(self, arm: str, names: Sequence[str], trained: Mapping[str, float]) -> None:
        self._arm = arm
        self._names = list(names)
        self._trained = np.array([trained.get(name, np.nan) for name in names])
        self._missing = np.zeros(len(names), np.int64)
        self._rows = self._requests = 0
        self._served: NDArray[np.float64] | None = None
        self._far = np.zeros(len(names), np.bool_)

    @property
    def served(self) -> dict[str, float]:
        """The shares in the last rows that were judged, or in those so far; empty before the first row."""
        shares = self._served
        if shares is None:
            if not self._rows:
                return {}
            shares = self._missing / self._rows
        return dict(zip(self._names, shares.tolist(), strict=True))

    def count(self, missing: NDArray[np.int64], rows: int, requests: int) -> None:
        """Count rows of requests, and those of them without a value, by field [fields]."""
        self._missing += missing
        self._rows += rows
        self._requests += requests
        if self._rows >= ROWS_JUDGED and self._requests >= REQUESTS_JUDGED:
            self._served = self._missing / self._rows
            self._judge(self._served)
            self._missing[:] = 0
            self._rows = self._requests = 0

    def _judge(self, served: NDArray[np.float64]) -> None:
        apart = np.abs(served - self._trained)
        if served.min() == 1.0:  # also where the training part is not known
            apart[:] = 1.0
        far = (apart >= FAR) | (self._far & (apart >= NEAR))
        new, self._far = far & ~self._far, far
        if not new.any():
            return
        if far.all() and served.min() == 1.0:
            text = f"requests bring none of its {len(far)} fields"
        else:
            worst = np.flatnonzero(new)[np.argsort(-apart[new], kind="stable")]
            named = [
                f"{self._names[place]!r} in {served[place]:.1%} of the rows ({self._trained[place]:.1%})"
                for place in worst[:FIELDS_NAMED]
            ]
            more = len(worst) - len(named)
            text = f"fields are missing unlike in the training part: {', '.join(named)}"
            text += f" and {more} more" if more else ""
        logger.warning(
            "arm %s: %s; see whether clients, or the feature store, give them under these names",
            self._arm,
            text,
        )
