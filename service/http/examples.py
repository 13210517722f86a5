"""Examples of requests and answers to `/predict`, made of a golden row of the bundle that is served."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from service.arms.split import Arm
from service.bidding import BidPolicy, bids
from service.bundle.encoder import Encoder
from service.bundle.errors import InvalidValue
from service.bundle.schema import FIRST_ID, Field, Kind, RawValue, Role
from service.errors import InvalidField
from service.scoring.predictor import Predictor
from service.scoring.request_encoder import USER_ID

JsonObject = dict[str, Any]

IDS = ["ad-1", "ad-2"]
VALUES: list[float | None] = [1.25, None]  # without a value per click there is a pCTR, and no bid
FLOORS: list[float | None] = [0.0001, None]
# For a field of each kind, a value that it cannot have.
_WRONG: dict[Kind, RawValue] = {Kind.NUMERIC: "three", Kind.CATEGORICAL: 1.5, Kind.SEQUENCE: "a"}


@dataclass(frozen=True)
class Examples:
    """A request in both forms, its answers, and the refusal of a value that a field cannot have."""

    rows_request: JsonObject
    columns_request: JsonObject
    rows_answer: JsonObject
    columns_answer: JsonObject
    refusal: InvalidField


def examples_of(arm: Arm, policy: BidPolicy) -> Examples:
    """The examples of an arm: two candidates with the features of one golden row, and its golden pCTR."""
    predictor = arm.predictor
    number = _best_known(predictor)
    row = predictor.golden.rows[number]
    pctr = predictor.golden.variants[predictor.variant].pctrs[number]
    pctrs = [pctr] * len(IDS)
    offers = bids(np.array(pctrs), VALUES, FLOORS, policy)
    head = {"id": "req-1", "arm": arm.name, "bundle": predictor.manifest.id}
    request = {"id": "req-1", **_user(row.context, predictor.encoder), "tmax_ms": 50}
    features = dict(row.candidate)
    columns = {
        "id": IDS,
        "features": {name: [value] * len(IDS) for name, value in features.items()},
        "value_per_click": VALUES,
        "bid_floor": FLOORS,
    }
    rows = [
        {"id": name, "features": features, **_given(value_per_click=value, bid_floor=floor)}
        for name, value, floor in zip(IDS, VALUES, FLOORS, strict=True)
    ]
    results = [{"id": name, "pctr": pctr, "bid": bid} for name, bid in zip(IDS, offers, strict=True)]
    return Examples(
        rows_request={**request, "candidates": rows},
        columns_request={**request, "candidates": columns},
        rows_answer={**head, "results": results},
        columns_answer={**head, "results": {"id": IDS, "pctr": pctrs, "bid": offers}},
        refusal=_refusal(predictor.encoder),
    )


def _best_known(predictor: Predictor) -> int:
    """The number of the golden row with the most values that have an id of their own."""
    known = [sum(each >= FIRST_ID for each in ids) for ids in predictor.golden.ids]
    return known.index(max(known))


def _user(context: JsonObject, encoder: Encoder) -> JsonObject:
    """The context and the request's own `user_id`, which fills a field of that name."""
    if USER_ID not in encoder.context_names:
        return {"user_id": "u42", "context": context}
    own = context.get(USER_ID)
    if not isinstance(own, str):
        return {"context": context}
    return {"user_id": own, "context": {name: value for name, value in context.items() if name != USER_ID}}


def _given(**values: float | None) -> JsonObject:
    return {name: value for name, value in values.items() if value is not None}


def _refusal(encoder: Encoder) -> InvalidField:
    """What the service answers to a value that a field cannot have, a number if there is one."""
    fields: Sequence[Field] = encoder.schema.fields
    field = next((each for each in fields if each.kind is Kind.NUMERIC), fields[0])
    where = "context" if field.role is Role.CONTEXT else "candidates[0].features"
    try:
        encoder.encode_column(field.name, [_WRONG[field.kind]])
    except InvalidValue as error:
        return InvalidField(error.message, path=f"$.{where}.{field.name}")
    raise AssertionError(f"{field.kind} fields refuse {_WRONG[field.kind]!r}")
