"""How the bids of one request come about, step by step, by the parts that serve; it knows no traffic."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Self

import msgspec
import numpy as np
from numpy.typing import NDArray

from service.bidding import BidPolicy, bids
from service.bundle.schema import Role, Schema
from service.calibration.fit import NONE, Correction
from service.errors import RowFailed
from service.scoring.predictor import Predictor, Probabilities
from service.scoring.rows import BatchRows, Ids
from service.wire import Asked, PredictAnswer, PredictRequest, Result, asked_of

Money = Sequence[float | None]


@dataclass(frozen=True)
class Explanation:
    """Every step from the values sent to the bids, for the candidates [n].

    Ids are by field. `calibrated` are log-odds, `own` the bundle's pCTRs, `corrected` those of a live
    calibration. Bids are in the currency of the values, per impression: `linear` ones are pCTR x value x
    multiplier, `shaded` ones follow the win price too, `capped` ones the cap, and `bids` the floors. None is
    no bid.
    """

    asked: Asked
    context_ids: dict[str, list[int]]
    candidate_ids: list[dict[str, list[int]]]
    logits: NDArray[np.float32]
    calibrated: NDArray[np.float64]
    own: Probabilities
    corrected: Probabilities
    linear: Money
    shaded: Money
    capped: Money
    bids: Money


@dataclass(frozen=True)
class Answered:
    """What an answer says: its results as rows, and the revision of its live calibration, 0 for none."""

    arm: str
    bundle: str
    results: list[Result]
    revision: int

    @classmethod
    def of(cls, answer: PredictAnswer) -> Self:
        """The same of rows and of columns."""
        results = answer.results
        if not isinstance(results, list):
            results = list(map(Result, results.id, results.pctr, results.bid))
        revision = answer.calibration_revision
        return cls(answer.arm, answer.bundle, results, 0 if revision is msgspec.UNSET else revision)


def explain(
    predictor: Predictor, request: PredictRequest, rows: int, correction: Correction, policy: BidPolicy
) -> Explanation:
    """The steps of a request of so many candidates.

    Raises InvalidField as `Predictor.encode` does, and RowFailed for a row that the graph cannot score.
    """
    encoded, asked = predictor.encode(request, rows), asked_of(request)
    batch = BatchRows.of([encoded])
    logits = predictor.graphs.run(batch)
    is_number = np.isfinite(logits)
    if not is_number.all():
        raise RowFailed(f"candidate {int(is_number.argmin())} must have a finite logit; export again")
    calibrator, segments = predictor.calibrator, predictor.segments_of(batch)
    own = calibrator.pctr(logits, segments)
    corrected = own
    if correction != NONE:
        corrected = correction.pctrs(own, calibrator.clamp_low, calibrator.clamp_high)

    def by(policy: BidPolicy, floors: Money | None = None) -> Money:
        return bids(corrected, asked.values_per_click, floors, policy)

    schema = predictor.encoder.schema
    return Explanation(
        asked,
        _by_field(schema, Role.CONTEXT, encoded.context),
        [_by_field(schema, Role.CANDIDATE, ids) for ids in encoded.candidates],
        logits,
        calibrator.calibrated_logits(logits, segments),
        own,
        corrected,
        linear=by(BidPolicy(policy.multiplier)),
        shaded=by(replace(policy, cap=None, floor=0.0)),
        capped=by(replace(policy, floor=0.0)),
        bids=by(policy, asked.bid_floors),
    )


def differences(bundle: str, found: Explanation, answer: Answered) -> Iterator[str]:
    """What an answer has that is not as explained by a bundle, of this id: a line each."""
    if answer.bundle != bundle:
        yield f"The answer is of bundle {answer.bundle}, and not of {bundle}."
    rows = len(found.own)
    if len(answer.results) != rows:
        yield f"The answer has {len(answer.results)} candidates, and the request {rows}."
        return
    ids = found.asked.ad_ids or [None] * rows
    for row, result in enumerate(answer.results):
        here = (("id", ids[row]), ("pctr", float(found.corrected[row])), ("bid", found.bids[row]))
        for name, value in here:
            answered = getattr(result, name)
            if answered != value:
                yield f"Row {row}: {name} is {text_of(answered)} in the answer, and {text_of(value)} here."


def text_of(value: object) -> str:
    """A value with all of its digits, as the answer has it."""
    return "-" if value is None else str(value)


def _by_field(schema: Schema, role: Role, ids: Ids) -> dict[str, list[int]]:
    """The ids of the fields of a role, whose columns stand one after the other."""
    found, start = {}, 0
    for field in schema.fields:
        if field.role is role:
            found[field.name] = ids[start : start + field.max_length].tolist()
            start += field.max_length
    return found
