"""What each field is worth to a model: by shuffling it among rows, and by what its value does to one logit.

It knows ids and a scorer, no file. A field whose part another one can play is worth little by itself: neither
figure tells what a model without the field would learn.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from export.bundles.records import Importance, Move
from export.bundles.scorer import Scorer
from export.data.progress import Bar
from export.judge.bootstrap import Delta, resampled_aucs, resampled_loglosses
from export.judge.metrics import is_evidence
from service.bundle.schema import Field

SHUFFLES = 3
RESAMPLES = 100
ORDERS = 400
"""Orders of the fields, each with another row behind it, that a row's moves are the mean of."""

Ids = NDArray[np.int32]


@dataclass
class Sample:
    """At most `wanted` rows of all that are added, each as likely as any other."""

    wanted: int
    seed: int

    def __post_init__(self) -> None:
        self._draw = np.random.default_rng(self.seed)
        self._keys = np.empty(0)
        self._rows: tuple[Ids, NDArray[np.uint8]] | None = None

    def add(self, ids: Ids, labels: NDArray[np.uint8]) -> None:
        """Rows of ids [n, columns] and labels [n]."""
        keys = np.concatenate([self._keys, self._draw.random(len(labels))])
        if self._rows is not None:
            ids = np.concatenate([self._rows[0], ids])
            labels = np.concatenate([self._rows[1], labels])
        # In the order of the log, so that the same rows are the same sample whatever the chunks were.
        kept = np.sort(np.argsort(keys, kind="stable")[: self.wanted])
        self._keys, self._rows = keys[kept], (ids[kept], labels[kept])

    @property
    def rows(self) -> tuple[Ids, NDArray[np.uint8]]:
        """ids [m, columns] and labels [m]."""
        assert self._rows is not None
        return self._rows


def importances(scorer: Scorer, ids: Ids, labels: NDArray[np.uint8], seed: int) -> tuple[Importance, ...]:
    """What LogLoss and AUC lose when each field is shuffled among the rows of ids [n, columns].

    Reference: Breiman, "Random forests" (Machine Learning 2001). The mean of some shuffles; intervals are
    paired, over the rows. Fields with the largest rise of LogLoss come first.
    """
    known = scorer.pctr(scorer.logits(ids), ids)
    found = []
    with Bar("shuffling", len(scorer.bundle.schema.fields), unit="fields") as bar:
        for field in scorer.bundle.schema.fields:
            found.append(_importance(scorer, field, ids, labels, known, seed))
            bar.add(1)
    return tuple(sorted(found, key=lambda one: (-one.logloss, one.field)))


def _importance(
    scorer: Scorer, field: Field, ids: Ids, labels: NDArray[np.uint8], known: NDArray[np.float64], seed: int
) -> Importance:
    draw = np.random.default_rng(seed)
    columns = scorer.bundle.schema.column_slices[field.name]
    scores = [known]
    for _ in range(SHUFFLES):
        shuffled = ids.copy()
        shuffled[:, columns] = ids[draw.permutation(len(ids)), columns]
        scores.append(scorer.pctr(scorer.logits(shuffled), shuffled))
    logloss, auc = (
        Delta.of(lines[1:].mean(axis=0) - lines[0])
        for lines in (
            resampled_loglosses(labels, scores, resamples=RESAMPLES),
            resampled_aucs(labels, scores, resamples=RESAMPLES),
        )
    )
    return Importance(
        field=field.name,
        kind=str(field.kind),
        role=str(field.role),
        logloss=logloss.delta,
        logloss_interval=logloss.interval,
        auc=auc.delta,
        auc_interval=auc.interval,
        verdict=_verdict(logloss, labels),
    )


def _verdict(logloss: Delta, labels: NDArray[np.uint8]) -> Literal["matters", "harms", "noise"]:
    if logloss.sign == 0 or not is_evidence(int(labels.sum()), len(labels)):
        return "noise"
    return "matters" if logloss.sign > 0 else "harms"


def moves_of(
    scorer: Scorer, row: Ids, background: Ids, values: dict[str, str], seed: int
) -> tuple[tuple[Move, ...], float]:
    """By how much each field moved the logit of a row [columns] off that of `background` rows [n, columns].

    A field's move is what its value adds to the logit, the mean over orders in which fields take the row's
    values one after another, each order beginning with another background row: sampled Shapley values
    (Strumbelj & Kononenko, "Explaining prediction models and individual predictions with feature
    contributions", KAIS 2014). The moves add up to the row's logit minus the mean logit behind them, which is
    the second result. `values` are what a reader calls the row's. The largest moves come first.
    """
    draw = np.random.default_rng(seed)
    schema = scorer.bundle.schema
    places = [schema.column_slices[field.name] for field in schema.fields]
    behind = background[draw.integers(0, len(background), ORDERS)]
    orders = [draw.permutation(len(places)) for _ in range(ORDERS)]
    steps = np.repeat(behind[:, None], len(places) + 1, axis=1)  # [orders, fields + 1, columns]
    for path, order in zip(steps, orders, strict=True):
        for number, position in enumerate(order):
            path[number + 1 :, places[position]] = row[places[position]]
    logits = scorer.logits(steps.reshape(-1, schema.columns)).astype(np.float64).reshape(ORDERS, -1)
    added = np.empty((ORDERS, len(places)))
    np.put_along_axis(added, np.array(orders), np.diff(logits, axis=1), axis=1)
    means, errors = added.mean(axis=0), added.std(axis=0, ddof=1) / np.sqrt(ORDERS)
    found = [
        Move(field.name, values[field.name], float(mean), float(error))
        for field, mean, error in zip(schema.fields, means, errors, strict=True)
    ]
    return tuple(sorted(found, key=lambda one: (-abs(one.logit), one.field))), float(logits[:, 0].mean())
