"""Fits the prior of a bundle: a base rate by the values of a few fields; it knows no graph and no file.

A prior is what a service answers by when no model may or can run, so it must cost next to nothing: log-odds
that are a sum over few fields of few values. Offsets of values are empirical Bayes estimates, as those of a
calibrator (`calibration_segments`): what a click-through rate smoothed by pseudo-counts is in the probability
(Wang et al., "Click-Through Rate Estimation for Rare Events in Online Advertising", 2011), they are in
log-odds, where fields add up. Fields are chosen one after the other, each fitted to what those before leave,
as in a forward stagewise additive model (Hastie, Tibshirani and Friedman, "The Elements of Statistical
Learning", 2nd ed., 10.2), by their LogLoss on rows that no offset has seen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import msgspec
import numpy as np
from numpy.typing import NDArray

from export.data.encoded import Part
from export.judge.metrics import evaluate, logloss, sigmoid
from export.stages.base_rate import rows_of
from export.stages.calibration_methods import fit_offset
from export.stages.calibration_segments import Offsets, fit_offsets
from export.stages.variants import Variant
from service.bundle.manifest import Metrics
from service.bundle.prior import Prior, PriorField
from service.bundle.schema import Field, Kind, Role, Schema

# Fields at most, and ids of each: a prior is to stay in the cache of a processor.
MOST_FIELDS, MOST_IDS = 3, 20_000
# The least share of LogLoss on validation rows that a field must save, and the share by which a field may be
# worse than the best and still be taken in its place, because it is an ad's and has fewer values.
LEAST_GAIN, NEAR = 1e-3, 1e-3
# Rows that are fitted, and those that choose, drawn by chance: more would decide the same.
FITTED_ROWS, JUDGED_ROWS = 200_000, 100_000


@dataclass(frozen=True, eq=False)
class _Rows:
    """Labels [n] of some rows, their log-odds so far [n], and the ids [n] of fields that may be chosen."""

    labels: NDArray[np.integer]
    logits: NDArray[np.float64]
    ids: Mapping[str, NDArray[np.int32]] = field(default_factory=dict)

    def moved(self, name: str, offsets: Offsets) -> _Rows:
        """With the offsets of a field added."""
        return replace(self, logits=self.logits + offsets.of(self.ids[name]))

    def loss(self) -> float:
        """LogLoss at the level of these rows."""
        return logloss(self.labels, sigmoid(self.logits + fit_offset(self.logits, self.labels)[0]))


def fit_prior(
    parts: Mapping[str, Part], variant: Variant, schema: Schema, *, sampling_rate: float = 1.0
) -> Prior | None:
    """The prior of a bundle whose graphs take the ids of `variant`; None where a part has no click, or only.

    Offsets are fitted on rows of the training part; fields are chosen, and the level is set, on the
    validation part, where predicted clicks are then as many as clicks. `schema` is the bundle's.
    """
    train, validation = parts["train"], parts["validation"]
    labels = np.asarray(train.labels)
    clicks = int(labels.sum())
    if not all(0 < int(np.asarray(part.labels).sum()) < len(part) for part in (train, validation)):
        return None
    base = float(np.log(clicks / (len(labels) - clicks)))
    fields = {one.name: one for one in schema.fields if _may_serve(one)}
    chosen = _choose(
        _rows_of(train, variant, fields, base, FITTED_ROWS),
        _rows_of(validation, variant, fields, base, JUDGED_ROWS),
        fields,
    )
    prior = Prior(
        intercept=base,
        fields=tuple(PriorField(name, offsets.pairs()) for name, offsets in chosen.items()),
        fit_rows=len(labels),
        fit_clicks=clicks,
        fit_window=_window(train),
    )
    level = prior.log_odds(_ids(prior, validation, variant), len(validation))
    prior = msgspec.structs.replace(
        prior, intercept=base + fit_offset(level, np.asarray(validation.labels))[0]
    )
    return msgspec.structs.replace(
        prior,
        sampling_rate=sampling_rate,
        validation=_judge(prior, validation, variant),
        test=_judge(prior, parts["test"], variant),
    )


def _may_serve(one: Field) -> bool:
    """Whether a field has one value a row, of its own, and few enough."""
    return one.kind is not Kind.SEQUENCE and one.same_values_as is None and one.cardinality <= MOST_IDS


def _rows_of(part: Part, variant: Variant, fields: Mapping[str, Field], base: float, most: int) -> _Rows:
    """Rows of a part, `most` at most."""
    if len(part) > most:
        part = rows_of(part, np.sort(np.random.default_rng(0).choice(len(part), most, replace=False)))
    ids = {name: variant.ids_of(part, name) for name in fields}
    return _Rows(np.asarray(part.labels), np.full(len(part), base), ids)


def _choose(train: _Rows, judged: _Rows, fields: Mapping[str, Field]) -> dict[str, Offsets]:
    """The offsets of the fields that are worth it, in the order of their choice.

    The first is a candidate's, if one of these is worth it: a prior that does not tell ads apart ranks none.
    """
    chosen, left = dict[str, Offsets](), dict(fields)
    least = LEAST_GAIN * judged.loss()
    while len(chosen) < MOST_FIELDS:
        offsets = {name: fit_offsets(train.logits, train.labels, train.ids[name]) for name in left}
        before = judged.loss()
        gains = {name: before - judged.moved(name, one).loss() for name, one in offsets.items()}
        # A field that saves too little now seldom saves more beside others.
        left = {name: one for name, one in left.items() if gains[name] >= least}
        if not left:
            break
        candidates = [name for name, one in left.items() if one.role is Role.CANDIDATE]
        able = list(left) if chosen or not candidates else candidates
        near = max(gains[name] for name in able) - NEAR * before
        name = min(
            (name for name in able if gains[name] >= near),
            key=lambda name: (fields[name].role is not Role.CANDIDATE, fields[name].cardinality),
        )
        chosen[name] = offsets[name]
        del left[name]
        train, judged = train.moved(name, offsets[name]), judged.moved(name, offsets[name])
    return chosen


def _ids(prior: Prior, part: Part, variant: Variant) -> Sequence[NDArray[np.int32]]:
    return [variant.ids_of(part, name) for name in prior.names]


def _judge(prior: Prior, part: Part, variant: Variant) -> Metrics:
    pctr = prior.pctr(_ids(prior, part, variant), len(part))
    return evaluate(np.asarray(part.labels), pctr, part.true_pctr)


def _window(part: Part) -> tuple[int, int] | None:
    times = part.timestamps
    return None if times is None or not len(times) else (int(times.min()), int(times.max()))
