"""Applies a fitted calibrator: logit -> pCTR; it knows neither fitting nor graphs.

Every method is a strictly increasing map from logit to calibrated logit, which keeps the ranking of
candidates. With offsets by the values of one field it keeps the ranking of rows with the same value alone.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import pairwise
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from service.bundle.bounds import (
    MAX_KNOTS,
    MAX_SEGMENT_ID,
    Count,
    LogOdds,
    NotNegative,
    Number,
    Share,
    Slope,
)
from service.bundle.errors import EXPORT_AGAIN, BundleError, show
from service.bundle.json_files import decode_json, encode_json
from service.bundle.log_odds import pctr_of
from service.bundle.schema import Kind, Schema

CALIBRATION_FILE = "calibration.json"
SegmentId = Annotated[int, Meta(ge=0, le=MAX_SEGMENT_ID)]


class Quality(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Quality of probabilities on held-out rows: log loss, calibration error, predicted / observed clicks."""

    logloss: NotNegative
    ece: Share
    pcoc: NotNegative


class _Pieces(msgspec.Struct, frozen=True):
    """Isotonic as arrays: piece i is y = bases[i] + slopes[i] * (x - anchors[i]), up to x = ends[i]."""

    ends: NDArray[np.float64]
    anchors: NDArray[np.float64]
    bases: NDArray[np.float64]
    slopes: NDArray[np.float64]
    ceilings: NDArray[np.float64]


class Calibrator(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, dict=True):
    """A map fitted on the logits of one graph (Platt 1999; Kull et al. 2017; isotonic with linear pieces).

    platt: slope * logit + intercept. beta: low_slope * ln q - slope * ln(1 - q) + intercept, q being
    sigmoid(logit): a line that bends around logit 0. isotonic: linear between `knots` (logit, calibrated
    logit), with slope 1 beyond the outer ones. `sampling_rate` is the share of non-clicks kept in training:
    it makes the odds too high by 1 / rate, so ln(rate) is added. `clamp_low` and `clamp_high` bound the pCTR.

    `segment_offsets` (id, offset) are added to the calibrated logits of rows whose `segment_field` has that
    id, 0 to those of any other. Ids are those that the graph takes, after any renumbering.
    """

    variant: str
    graph_sha256: str
    method: Literal["identity", "platt", "beta", "isotonic"]
    slope: Slope = 1.0
    low_slope: Slope = 1.0
    intercept: LogOdds = 0.0
    knots: Annotated[tuple[tuple[LogOdds, LogOdds], ...], Meta(max_length=MAX_KNOTS)] = ()
    segment_field: str | None = None
    segment_offsets: tuple[tuple[SegmentId, LogOdds], ...] = ()
    clamp_low: Share = 1e-6
    clamp_high: Share = 1 - 1e-6
    sampling_rate: Share = 1.0
    fit_rows: Count
    fit_clicks: Count
    fit_window: tuple[Number, Number] | None = None
    before: Quality
    after: Quality

    @property
    def base_rate(self) -> float | None:
        """The click rate of the rows that it was fitted on, as it is without the sampling of non-clicks.

        None if there was no click, or nothing else.
        """
        others = self.fit_rows - self.fit_clicks
        if self.fit_clicks <= 0 or others <= 0:
            return None
        rate = self.fit_clicks / (self.fit_clicks + others / self.sampling_rate)
        return min(max(rate, self.clamp_low), self.clamp_high)

    def pctr(self, logits: NDArray[Any], segments: NDArray[np.integer] | None = None) -> NDArray[np.float64]:
        """Click probabilities [n] of `logits` [n], and `segments` as `calibrated_logits` takes them.

        Each depends only on its own logit and its own id. nan stays nan.
        """
        return pctr_of(self.calibrated_logits(logits, segments), self.clamp_low, self.clamp_high)

    def calibrated_logits(
        self, logits: NDArray[Any], segments: NDArray[np.integer] | None = None
    ) -> NDArray[np.float64]:
        """Calibrated logits [n] of `logits` [n], before the clamps.

        `segments` [n or 1] are the rows' ids of `segment_field`; without such a field they have no effect.
        Raises ValueError if there is one and they are left out.
        """
        shared = self._of_all(logits)
        if self.segment_field is None:
            return shared
        if segments is None:
            raise ValueError(f"'segments' must be the rows' ids of {show(self.segment_field)} (got None)")
        return shared + self._offsets.take(segments, mode="clip")

    def _of_all(self, logits: NDArray[Any]) -> NDArray[np.float64]:
        """Calibrated logits [n] as they are for rows of any segment."""
        x = np.ascontiguousarray(logits, np.float64)
        if self.method == "identity":
            return x + self._shift
        if self.method == "platt":
            return self.slope * x + (self.intercept + self._shift)
        if self.method == "beta":
            # A graph's logits are float32; closer ones could change places by the rounding of a logarithm.
            x = x.astype(np.float32).astype(np.float64)
            low, high = np.logaddexp(0.0, -x), np.logaddexp(0.0, x)
            return self.slope * high - self.low_slope * low + (self.intercept + self._shift)
        pieces = self._pieces
        piece = pieces.ends.searchsorted(x, "right")
        y = pieces.bases.take(piece) + pieces.slopes.take(piece) * (x - pieces.anchors.take(piece))
        # Rounding could lift the end of a piece above the start of the next.
        return np.minimum(y, pieces.ceilings.take(piece))

    @cached_property
    def _offsets(self) -> NDArray[np.float64]:
        return offsets_by_id(self.segment_offsets)

    @property
    def method_in_words(self) -> str:
        """The method, and the field by which there are offsets: `platt by site`."""
        return self.method if self.segment_field is None else f"{self.method} by {self.segment_field}"

    @cached_property
    def _shift(self) -> float:
        return math.log(self.sampling_rate)

    @cached_property
    def _pieces(self) -> _Pieces:
        x, y = np.array(self.knots, np.float64).T
        y = y + self._shift
        slopes = np.concatenate([[1.0], np.diff(y) / np.diff(x), [1.0]])
        return _Pieces(x, np.r_[x[0], x], np.r_[y[0], y], slopes, np.r_[y, math.inf])

    def validate(self) -> None:
        """Raises BundleError unless the map is finite and strictly increasing, and its bounds are ordered."""
        for name, number in self._numbers():
            self._require(math.isfinite(number), name, "a finite number", repr(number))
        hexadecimal = re.fullmatch("[0-9a-f]{64}", self.graph_sha256) is not None
        self._require(hexadecimal, "graph_sha256", "64 hexadecimal digits", show(self.graph_sha256))
        self._require(self.slope > 0, "slope", "above 0", repr(self.slope))
        bent = self.low_slope > 0 and (self.method == "beta" or self.low_slope == 1)
        self._require(bent, "low_slope", "above 0, and 1 but for beta", repr(self.low_slope))
        low, high = self.clamp_low, self.clamp_high
        self._require(0 < low < high < 1, "clamp_low and clamp_high", "0 < low < high < 1", f"{low}, {high}")
        rate = self.sampling_rate
        self._require(0 < rate <= 1, "sampling_rate", "above 0 and at most 1", repr(rate))
        clicks = self.fit_clicks
        self._require(0 <= clicks <= self.fit_rows, "fit_clicks", f"0 to {self.fit_rows}", str(clicks))
        self._validate_knots()
        self._validate_offsets()

    def validate_for(self, schema: Schema) -> None:
        """Raises BundleError unless `segment_field` is a field of the schema with one id a row, in range."""
        if self.segment_field is None:
            return
        fields = {field.name: field for field in schema.fields if field.kind is not Kind.SEQUENCE}
        field = fields.get(self.segment_field)
        found = show(self.segment_field)
        if field is None:
            raise self._refusal("segment_field", "a field of the schema that is no sequence", found)
        last = self.segment_offsets[-1][0]
        expected = f"of ids below {field.cardinality}, as {found} has in the schema"
        self._require(last < field.cardinality, "segment_offsets", expected, str(last))

    def _numbers(self) -> Iterator[tuple[str, float]]:
        """Every float of the calibrator, with its name."""
        for name in ("slope", "low_slope", "intercept", "clamp_low", "clamp_high", "sampling_rate"):
            yield name, getattr(self, name)
        for when in ("before", "after"):
            for name, number in msgspec.structs.asdict(getattr(self, when)).items():
                yield f"{when}.{name}", number
        for position, knot in enumerate(self.knots):
            for number in knot:
                yield f"knots[{position}]", number
        for position, (_, offset) in enumerate(self.segment_offsets):
            yield f"segment_offsets[{position}]", offset

    def _validate_knots(self) -> None:
        if self.method != "isotonic":
            self._require(not self.knots, "knots", f"empty for {self.method}", show(self.knots))
            return
        self._require(len(self.knots) >= 2, "knots", "at least 2", show(self.knots))
        for position, (left, right) in enumerate(pairwise(self.knots)):
            above = left[0] < right[0] and left[1] < right[1]
            self._require(above, f"knots[{position + 1}]", f"above {list(left)} in both", str(list(right)))
            slope = (right[1] - left[1]) / (right[0] - left[0]) if above else 0.0
            self._require(
                0 < slope < math.inf, f"knots[{position + 1}]", "at a finite slope above 0", f"slope {slope}"
            )

    def _validate_offsets(self) -> None:
        if self.segment_field is None:
            expected = "empty without a segment_field"
            self._require(not self.segment_offsets, "segment_offsets", expected, show(self.segment_offsets))
            return
        self._require(len(self.segment_offsets) > 0, "segment_offsets", "at least 1", "none")
        ids = [-1, *(number for number, _ in self.segment_offsets)]
        for position, (left, right) in enumerate(pairwise(ids)):
            self._require(left < right, f"segment_offsets[{position}]", f"of an id above {left}", str(right))

    def _require(self, met: bool, name: str, expected: str, found: str) -> None:
        if not met:
            raise self._refusal(name, expected, found)

    def _refusal(self, name: str, expected: str, found: str) -> BundleError:
        condition = f"such that '{name}' of {show(self.variant)} is {expected}"
        return BundleError(CALIBRATION_FILE, condition, found, "calibrate again")


def offsets_by_id(pairs: Sequence[tuple[int, float]]) -> NDArray[np.float64]:
    """Offsets of (id, offset), ids ascending, up to the last id, then one 0 for all later ids.

    `take` with the mode clip finds that of any id.
    """
    ids, offsets = zip(*pairs, strict=True)
    found = np.zeros(ids[-1] + 2)
    found[list(ids)] = offsets
    return found


def segments_of(calibrator: Calibrator, schema: Schema, ids: NDArray[np.int32]) -> NDArray[np.int32] | None:
    """The ids [n] of the calibrator's segment field among `ids` [n, columns]; None if it has none."""
    if calibrator.segment_field is None:
        return None
    return ids[:, schema.column_slices[calibrator.segment_field].start]


class _Calibration(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    calibrators: tuple[Calibrator, ...]


def calibrators_to_file(calibrators: Sequence[Calibrator]) -> bytes:
    """The bytes of calibration.json. Raises BundleError for an invalid calibrator."""
    for calibrator in calibrators:
        calibrator.validate()
    return encode_json(_Calibration(tuple(calibrators)))


def calibrators_from_file(data: bytes) -> dict[str, Calibrator]:
    """The calibrators of calibration.json by variant. Raises BundleError."""
    calibrators = decode_json(CALIBRATION_FILE, data, _Calibration).calibrators
    for calibrator in calibrators:
        calibrator.validate()
    by_variant = {calibrator.variant: calibrator for calibrator in calibrators}
    if len(by_variant) != len(calibrators):
        found = ", ".join(calibrator.variant for calibrator in calibrators)
        raise BundleError(CALIBRATION_FILE, "one calibrator a variant", found, EXPORT_AGAIN)
    return by_variant
