"""Examples with their outcomes -> columns: one for each field of a schema, and those that say what happened.

A feature is what the service encoded: what the request says, also a null; else what the feature store had
of its user, or has of the ad. It knows no file.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.bundle.example_columns import (
    ARM,
    BID,
    BUNDLE,
    CANDIDATE_ID,
    CLICK_DELAY,
    CLICKED,
    EXPLORED,
    LOG_ODDS,
    PCTR,
    REQUEST_ID,
    RESERVED,
    REVISION,
    SHOWN,
    TIME,
    USER_ID,
    VALUE_PER_CLICK,
    WEIGHT,
)
from service.bundle.schema import Field, Kind, Role, Schema
from service.errors import BadConfiguration, InvalidField
from service.examples.outcomes import NEVER, Times
from service.examples.record import ReadExample
from service.reading import KnownFields
from service.wire import PredictRequest, count_rows

# A categorical context field of this name is filled from the request's own `user_id`, as the service does.
_FILLED = "user_id"

Ads = Mapping[str, Mapping[str, Any]]
"""What a feature store has of ads, by id."""


def check_names(schema: Schema) -> None:
    """Raises BadConfiguration if a field has the name of a column beside the fields."""
    for field in schema.fields:
        if field.name in RESERVED:
            raise BadConfiguration(
                f"'--bundle' must be of fields with other names than the columns beside them (got "
                f"{field.name!r}); rename that field"
            )


@dataclass(frozen=True, eq=False)
class Judged:
    """The results of an example [n]: Unix times or NEVER, and what their tokens say."""

    shown_ms: Times
    clicked_ms: Times
    made_ms: Times
    log_odds: NDArray[np.float32]
    is_explored: NDArray[np.bool_]


class Columns:
    """Collects rows. Raises nothing but what `add` says."""

    def __init__(self, schema: Schema, ads: Ads | None) -> None:
        self._context = [field for field in schema.fields if field.role is Role.CONTEXT]
        self._candidate = [field for field in schema.fields if field.role is Role.CANDIDATE]
        names = [frozenset(field.name for field in fields) for fields in (self._context, self._candidate)]
        self._known = KnownFields(*names)
        self._fills_user_id = any(
            field.name == _FILLED and field.kind is Kind.CATEGORICAL for field in self._context
        )
        self._ads = ads
        self.unknown_ads = 0
        self._names = [field.name for field in schema.fields] + [*RESERVED]
        self.values: dict[str, list[Any]] = {}
        self.clear()

    def __len__(self) -> int:
        return len(self.values[TIME])

    def clear(self) -> None:
        """Forget the rows."""
        self.values = {name: [] for name in self._names}

    def add(self, example: ReadExample, chosen: Sequence[int], judged: Judged) -> None:
        """Add the `chosen` results of an example. Raises ServiceError for a request that is none."""
        request = example.request(self._known)
        rows = count_rows(request.candidates, len(example.tokens), self._known.candidate)
        if rows != len(example.tokens):
            raise InvalidField(
                f"'candidates' must be as many as there are results, {len(example.tokens)} (got {rows}); "
                "they are of another request",
                path="$.candidates",
            )
        self._add_context(example, request, len(chosen))
        self._add_candidates(request, chosen)
        self._add_outcomes(example, chosen, judged)
        for name, value in (
            (ARM, example.answer.arm),
            (BUNDLE, example.answer.bundle),
            (REVISION, example.answer.calibration_revision or 0),
            (REQUEST_ID, _text(request.id)),
            (USER_ID, _text(request.user_id)),
            (WEIGHT, 1.0 / example.line.share),
        ):
            self.values[name] += [value] * len(chosen)

    def _add_context(self, example: ReadExample, request: PredictRequest, count: int) -> None:
        given: dict[str, Any] = {**(example.line.user or {}), **request.context}
        if self._fills_user_id:
            given.setdefault(_FILLED, request.user_id)
        for field in self._context:
            self.values[field.name] += [_typed(field, given.get(field.name))] * count

    def _add_candidates(self, request: PredictRequest, chosen: Sequence[int]) -> None:
        candidates = request.candidates
        if isinstance(candidates, list):
            some = [candidates[row] for row in chosen]
            ids = [one.id for one in some]
            values = [one.value_per_click for one in some]
            given: Sequence[Mapping[str, Any]] = [one.features for one in some]
        else:
            ids = [None if candidates.id is None else candidates.id[row] for row in chosen]
            money = candidates.value_per_click
            values = [None if money is None else money[row] for row in chosen]
            names = [field.name for field in self._candidate if field.name in candidates.features]
            given = [{name: candidates.features[name][row] for name in names} for row in chosen]
        self.values[CANDIDATE_ID] += map(_text, ids)
        self.values[VALUE_PER_CLICK] += values
        for ad_id, features in zip(ids, given, strict=True):
            stored = self._stored(ad_id, features)
            for field in self._candidate:
                source = features if field.name in features else stored
                self.values[field.name].append(_typed(field, source.get(field.name)))

    def _stored(self, ad_id: str | None, given: Mapping[str, Any]) -> Mapping[str, Any]:
        if self._ads is None or ad_id is None or all(field.name in given for field in self._candidate):
            return {}
        found = self._ads.get(ad_id)
        if found is None:
            self.unknown_ads += 1
            return {}
        return found

    def _add_outcomes(self, example: ReadExample, chosen: Sequence[int], judged: Judged) -> None:
        rows = np.array(chosen, np.intp)
        shown, clicked, made = judged.shown_ms[rows], judged.clicked_ms[rows], judged.made_ms[rows]
        self.values[TIME] += made.tolist()
        self.values[SHOWN] += (shown != NEVER).astype(int).tolist()
        self.values[CLICKED] += (clicked != NEVER).astype(int).tolist()
        for at, since in zip(clicked.tolist(), made.tolist(), strict=True):
            self.values[CLICK_DELAY].append(None if at == NEVER else max(0, at - since))
        self.values[EXPLORED] += judged.is_explored[rows].astype(int).tolist()
        self.values[LOG_ODDS] += judged.log_odds[rows].tolist()
        self.values[PCTR] += [example.pctrs[row] for row in chosen]
        self.values[BID] += [example.bids[row] for row in chosen]


def _typed(field: Field, value: Any) -> Any:
    """A raw value as its column has it; None if it is missing, or what no field of that kind can be.

    A service refuses such values of a request, and takes those of a store as missing.
    """
    if field.kind is Kind.CATEGORICAL:
        return _text(value)
    if field.kind is Kind.NUMERIC:
        return _number(value)
    if not isinstance(value, list | tuple):
        return None
    elements = ["" if element is None or element == "" else _text(element) for element in value]
    return None if None in elements or not elements else elements


def _text(value: Any) -> str | None:
    """A category, or an id; a whole number is its decimal digits."""
    if isinstance(value, str):
        # Text of a request can have halves of surrogates, which no file of columns takes.
        return (value if value.isascii() else value.encode("utf-8", "replace").decode()) or None
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else None


def _number(value: Any) -> float | None:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None
