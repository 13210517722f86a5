"""What a search records: each trial, what tuning won, and the whole as tune.json."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from export.judge.bootstrap import Delta
from export.train.config import Metric

State = Literal["finished", "ended early", "failed"]


class TrialRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One trial, numbered from 1; the first has the defaults.

    `values` are the search's own (`export.tune.space`), `settings` what the model was trained with beside its
    defaults. `score` is the stopping metric on the validation part, of the best weights; that of a trial that
    ended early is its best so far, that of a failed one None.
    """

    number: int
    state: State
    values: dict[str, Any]
    settings: dict[str, Any]
    score: float | None
    seconds: float
    evaluations: int
    reason: str = ""

    @property
    def height(self) -> float:
        """The score as a number; NaN of a failed trial."""
        return math.nan if self.score is None else self.score


def ranked(trials: Sequence[TrialRecord], metric: Metric) -> list[TrialRecord]:
    """The finished trials, the best one first, of equal ones the earlier one."""
    finished = [one for one in trials if one.state == "finished"]
    return sorted(finished, key=lambda one: -one.height if metric == "auc" else one.height)


class Won(msgspec.Struct, frozen=True, kw_only=True):
    """What the best settings win over the defaults on rows that the search has not seen.

    Both are trained anew with seeds that the search has not used. `delta_*` are best minus default, the mean
    of the seeds, with 95 % intervals over rows and seeds. LogLoss is after a line fitted to each one's
    logits.
    """

    part: str
    rows: int
    clicks: int
    seeds: tuple[int, ...]
    metric: Metric
    logloss: tuple[float, float]  # of the defaults, of the best settings
    auc: tuple[float, float]
    delta_logloss: Delta
    delta_auc: Delta
    by_seed: tuple[float, ...]  # of the metric

    @property
    def gain(self) -> Delta:
        """The difference of the metric, above 0 where tuning won."""
        if self.metric == "auc":
            return self.delta_auc
        delta = self.delta_logloss
        return Delta(delta=-delta.delta, low=-delta.high, high=-delta.low)

    @property
    def beyond_noise(self) -> bool:
        return self.gain.low > 0


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """The content of tune.json: a search, and the settings that it ends with.

    `settings` are the best trial's, or none where the defaults do better on unseen rows; `fixed` are those
    that a person gave. `won` is None where the best trial is the default or diverges with other seeds, and
    where the search was interrupted.
    """

    model: str
    source: str
    fixed: dict[str, Any]
    metric: Metric
    trials: tuple[TrialRecord, ...]
    best: int
    settings: dict[str, Any]
    won: Won | None
    seconds: float
    verdict: str
