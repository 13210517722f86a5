"""Click probabilities without a model: a base rate, moved by the ids of a few fields; it knows no fitting.

Log-odds are a sum, as in a naive Bayes classifier or a logistic regression of these fields alone: an
intercept, and an offset for the id that a row has in each field. So a row costs one look-up a field.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from service.bundle.bounds import MAX_PRIOR_FIELDS, MAX_PRIOR_OFFSETS, Count, LogOdds, Name, Number, Share
from service.bundle.calibration import SegmentId, offsets_by_id
from service.bundle.errors import EXPORT_AGAIN, BundleError, show
from service.bundle.json_files import decode_json, encode_json
from service.bundle.log_odds import pctr_of
from service.bundle.manifest import Metrics
from service.bundle.schema import Kind, Schema

PRIOR_FILE = "prior.json"


class PriorField(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A field, and what its ids add to the log-odds: (id, offset), ids ascending; any other id adds 0.

    Ids are those that the graph takes, after any renumbering.
    """

    name: Name
    offsets: Annotated[
        tuple[tuple[SegmentId, LogOdds], ...], Meta(min_length=1, max_length=MAX_PRIOR_OFFSETS)
    ]

    def table(self) -> NDArray[np.float64]:
        """Offsets by id, as `offsets_by_id` has them."""
        return offsets_by_id(self.offsets)


class Prior(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The contents of prior.json. Without fields it is one click rate for all rows.

    It was fitted on `fit_rows` of the training part, its level on the validation part. `sampling_rate` is the
    share of non-clicks that the log keeps: ln(rate) is added. `clamp_low` and `clamp_high` bound the pCTR.
    `validation` and `test` are its quality on these parts, in the log's own distribution, as that of the
    graphs in the manifest.
    """

    intercept: LogOdds
    fields: Annotated[tuple[PriorField, ...], Meta(max_length=MAX_PRIOR_FIELDS)] = ()
    clamp_low: Share = 1e-6
    clamp_high: Share = 1 - 1e-6
    sampling_rate: Share = 1.0
    fit_rows: Count
    fit_clicks: Count
    fit_window: tuple[Number, Number] | None = None
    validation: Metrics | None = None
    test: Metrics | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The fields by which it differs, in the order of their ids in `pctr`."""
        return tuple(field.name for field in self.fields)

    def tables(self) -> list[NDArray[np.float64]]:
        """The offsets of each field by id, as `pctr` takes them."""
        return [field.table() for field in self.fields]

    def pctr(
        self,
        ids: Sequence[NDArray[np.integer[Any]]],
        rows: int,
        tables: Sequence[NDArray[np.float64]] | None = None,
    ) -> NDArray[np.float64]:
        """Click probabilities [rows] of rows with these ids, [rows or 1] of each field.

        A row's probability depends on its own ids alone. `tables` are made anew unless they are given.
        """
        return pctr_of(self.log_odds(ids, rows, tables), self.clamp_low, self.clamp_high)

    def log_odds(
        self,
        ids: Sequence[NDArray[np.integer[Any]]],
        rows: int,
        tables: Sequence[NDArray[np.float64]] | None = None,
    ) -> NDArray[np.float64]:
        """The log-odds [rows] of which `pctr` makes probabilities."""
        found = np.full(rows, self.intercept + math.log(self.sampling_rate))
        for table, of_field in zip(self.tables() if tables is None else tables, ids, strict=True):
            found += table.take(of_field, mode="clip")
        return found

    def validate(self) -> None:
        """Raises BundleError for numbers out of order; their bounds are those of their types."""
        low, high = self.clamp_low, self.clamp_high
        _require(0 < low < high < 1, "clamp_low and clamp_high", "0 < low < high < 1", f"{low}, {high}")
        rate = self.sampling_rate
        _require(0 < rate <= 1, "sampling_rate", "above 0 and at most 1", repr(rate))
        clicks = self.fit_clicks
        _require(clicks <= self.fit_rows, "fit_clicks", f"0 to {self.fit_rows}", str(clicks))
        names = self.names
        _require(len(set(names)) == len(names), "fields", "each another one", show(names))
        for field in self.fields:
            for left, right in pairwise([-1, *(number for number, _ in field.offsets)]):
                name = f"offsets of {show(field.name)}"
                _require(left < right, name, f"of ascending ids, {left} before", str(right))

    def validate_for(self, schema: Schema) -> None:
        """Raises BundleError unless its fields are in the schema, with one id a row of their own values."""
        fields = {
            field.name: field
            for field in schema.fields
            if field.kind is not Kind.SEQUENCE and field.same_values_as is None
        }
        for one in self.fields:
            field = fields.get(one.name)
            if field is None:
                expected = "fields of the schema with one id a row and values of their own"
                raise _refusal("fields", expected, show(one.name))
            last = one.offsets[-1][0]
            expected = f"of ids below {field.cardinality}, as it has in the schema"
            _require(last < field.cardinality, f"offsets of {show(one.name)}", expected, str(last))


def prior_to_file(prior: Prior) -> bytes:
    """The bytes of prior.json. Raises BundleError for an invalid prior."""
    prior.validate()
    return encode_json(prior)


def prior_from_file(data: bytes) -> Prior:
    """The prior of prior.json. Raises BundleError."""
    prior = decode_json(PRIOR_FILE, data, Prior)
    prior.validate()
    return prior


def _require(met: bool, name: str, expected: str, found: str) -> None:
    if not met:
        raise _refusal(name, expected, found)


def _refusal(name: str, expected: str, found: str) -> BundleError:
    return BundleError(PRIOR_FILE, f"such that '{name}' is {expected}", found, EXPORT_AGAIN)
