"""Where two bundles disagree: differences of their log-odds by the values of every field.

It knows scores and ids, no file.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from export.bundles.collect import Collected
from export.bundles.records import Agreement, Disagreement
from export.bundles.scorer import Scores
from export.data.readers import LogChunk
from export.judge.metrics import rank_correlation
from export.report.value_names import value_names
from service.bundle.log_odds import log_odds_of
from service.bundle.schema import Kind, Schema

# Of hundreds of thousands of values some are off by four standard errors by luck, hardly any by five.
LEAST_ERRORS = 5.0
LEAST_ROWS = 30
MOST_VALUES = 20
TOP_SHARE, APART = 0.1, 0.1


@dataclass
class Disagreements:
    """Sums by field and id while the second bundle's scores come, beside the `first` one's.

    Fields and ids are those of the second bundle. Sequences, which have several values a row, are left out.
    Memory holds five numbers an id.
    """

    first: Collected
    schema: Schema
    _sums: dict[str, NDArray[np.float64]] = field(default_factory=dict)  # [5, cardinality]
    _all: NDArray[np.float64] = field(default_factory=lambda: np.zeros(3))  # rows, sum, sum of squares

    def add(self, chunk: LogChunk, scores: Scores) -> None:
        """Rows of a chunk that the first one has too."""
        if chunk.labels is None:
            return
        places = np.searchsorted(self.first.lines, chunk.lines)
        places[places == len(self.first.lines)] = 0
        both = self.first.lines[places] == chunk.lines
        before, after = self.first.pctr[places[both]], scores.pctr[both]
        difference = log_odds_of(after) - log_odds_of(before)
        self._all += np.array([len(difference), difference.sum(), difference @ difference])
        weights = (None, chunk.labels[both], before, after, difference)
        for one in self.schema.fields:
            if one.kind is Kind.SEQUENCE:
                continue
            ids = scores.ids[both, self.schema.column_slices[one.name].start]
            sums = self._sums.setdefault(one.name, np.zeros((len(weights), one.cardinality)))
            for line, weight in zip(sums, weights, strict=True):
                line += np.bincount(ids, weight, minlength=one.cardinality)

    def values(self) -> tuple[Disagreement, ...]:
        """The values whose rows differ otherwise than the whole beyond noise, the surest first."""
        total, summed, squares = self._all
        mean = summed / max(total, 1)
        spread = np.sqrt(max(squares / max(total, 1) - mean**2, 0.0))
        found: list[tuple[float, str, int]] = []
        for name, (rows, _, _, _, differences) in self._sums.items():
            # A value of nearly all rows is the whole.
            ids = np.flatnonzero((rows >= LEAST_ROWS) & (rows < total))
            noise = spread / np.sqrt(rows[ids])
            off = differences[ids] / rows[ids] - mean
            errors = np.divide(off, noise, out=np.zeros_like(off), where=noise > 0)
            found += [
                (float(errors[place]), name, int(ids[place]))
                for place in np.flatnonzero(np.abs(errors) >= LEAST_ERRORS)
            ]
        shown = sorted(found, key=lambda one: (-abs(one[0]), one[1], one[2]))[:MOST_VALUES]
        return tuple(self._told(errors, name, number) for errors, name, number in shown)

    def _told(self, errors: float, name: str, number: int) -> Disagreement:
        rows, clicks, before, after, difference = self._sums[name][:, number]
        return Disagreement(
            field=name,
            value=value_names(self.schema.field(name), np.array([number]))[number],
            rows=int(rows),
            clicks=int(clicks),
            pctr_first=float(before / rows),
            pctr_second=float(after / rows),
            difference=float(difference / rows),
            errors=errors,
        )


def agreement(first: NDArray[np.float64], second: NDArray[np.float64]) -> Agreement:
    """Of the pCTRs [n] of the same rows."""
    difference = log_odds_of(second) - log_odds_of(first)
    top = max(1, round(TOP_SHARE * len(first)))
    highest = [set(np.argsort(-one, kind="stable")[:top].tolist()) for one in (first, second)]
    return Agreement(
        rank_correlation=rank_correlation(first, second),
        top_share=len(highest[0] & highest[1]) / top,
        mean_difference=float(difference.mean()),
        mean_absolute=float(np.abs(difference).mean()),
        largest=float(np.abs(difference).max()),
        apart=float((np.abs(second / first - 1) > APART).mean()),
    )
