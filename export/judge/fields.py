"""What each field of an encoded log holds: missing and unseen values, constants, rare values, leaks.

It reads ids and labels alone; it knows no model.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from export.data.parts import EncodedLog, Part
from export.data.splits import PARTS
from export.judge.metrics import grouped_auc, is_evidence
from export.report.findings import FieldSummary
from service.bundle.schema import FIRST_ID, MISSING_ID, OOV_ID, Field, Hashing, Kind, Vocabulary

LEAK_AUC: Final = 0.99  # a field that ranks this well alone tells the label
SKEWED_SHARE: Final = 0.999  # of the training rows, in one value
MOVED_SHARE: Final = 0.9  # of the test part, in one value or in none, which few training rows have
FEW_SHARE: Final = 0.1
RARE_SHARE: Final = 0.5  # of a field's training values without an id of their own
UNSEEN_SHARE: Final = 0.1  # of a field's later values that training did not show
SHOWN: Final = 3  # fields that a line names
_PRIOR_ROWS: Final = 1.0  # rows at the mean click rate that a value's click rate begins with
_CHUNK_ROWS: Final = 16_384  # whose ids fit the cache: each field reads its columns of them
_WIDE: Final = 16  # times as many ids as rows are counted one by one, not by an array of counts
_DECIMAL: Final = re.compile(r"-?\d+\.0+")
MISSING_WORDS: Final = frozenset(
    ("NULL", "Null", "null", "(null)", "NaN", "nan", "NA", "N/A", "n/a", "<NA>", "\\N", "None", "undefined")
)


def describe_fields(log: EncodedLog) -> tuple[FieldSummary, ...]:
    """The summary of each field, in the schema's order. Memory holds eight or twelve counts an id."""
    counted = [_Counts(field, log.schema.column_slices[field.name]) for field in log.schema.fields]
    for name, part in log.parts.items():
        for ids, labels in _chunks(part):
            for one in counted:
                one.add(name, ids[:, one.columns], labels)
    return tuple(one.summary() for one in counted)


def _chunks(part: Part) -> Iterable[tuple[NDArray[np.int32], NDArray[np.uint8]]]:
    for start in range(0, len(part), _CHUNK_ROWS):
        stop = start + _CHUNK_ROWS
        yield np.asarray(part.ids[start:stop]), np.asarray(part.labels[start:stop])


class _Counts:
    """What `describe_fields` counts of one field, by id: of a sequence its first elements, and all."""

    def __init__(self, field: Field, columns: slice) -> None:
        self.columns = columns
        self._field = field
        self._rows = {name: np.zeros(field.cardinality, np.int32) for name in PARTS}
        self._clicks = {name: np.zeros(field.cardinality, np.int32) for name in PARTS}
        self._values = self._rows
        if field.kind is Kind.SEQUENCE:
            self._values = {name: np.zeros(field.cardinality, np.int32) for name in PARTS}

    def add(self, part: str, ids: NDArray[np.int32], labels: NDArray[np.uint8]) -> None:
        """Counts ids [n, width] and their labels [n]."""
        _count(self._rows[part], ids[:, 0])
        _count(self._clicks[part], ids[labels == 1, 0])
        if self._values is not self._rows:
            _count(self._values[part], ids.reshape(-1))

    def summary(self) -> FieldSummary:
        field, rows = self._field, self._rows["train"]
        present = np.delete(rows, MISSING_ID)
        test = self._rows["test"]
        common = int(test.argmax())
        return FieldSummary(
            name=field.name,
            kind=str(field.kind),
            role=str(field.role),
            cardinality=field.cardinality,
            missing={part: float(rows[MISSING_ID] / max(1, rows.sum())) for part, rows in self._rows.items()},
            unseen={part: self._unseen(part) for part in PARTS},
            distinct=int(np.count_nonzero(present)),
            largest_share=float(rows.max() / max(1, rows.sum())),
            auc=self._auc(),
            test_share=float(test[common] / max(1, test.sum())),
            test_share_before=float(rows[common] / max(1, rows.sum())),
            decimal=_decimal(field),
            missing_word=_missing_word(field),
        )

    def _unseen(self, part: str) -> float:
        """The share of a part's values without an id of their own; of hashed ones, without a training row."""
        values = self._values[part]
        unseen = int(values[OOV_ID])
        if isinstance(self._field.encoding, Hashing) and part != "train":
            is_shown = self._values["train"][FIRST_ID:] > 0
            unseen += int(values[FIRST_ID:][~is_shown].sum())
        return unseen / max(1, int(np.delete(values, MISSING_ID).sum()))

    def _auc(self) -> float | None:
        """On validation, of each value's click rate in training; on all later rows if that is small."""
        rows, clicks = self._rows["train"], self._clicks["train"]
        mean = clicks.sum() / max(1, rows.sum())
        score = (clicks + _PRIOR_ROWS * mean) / (rows + _PRIOR_ROWS)
        for parts in (("validation",), PARTS[1:]):
            rows = np.sum([self._rows[part] for part in parts], axis=0)
            clicks = np.sum([self._clicks[part] for part in parts], axis=0)
            if is_evidence(clicks.sum(), rows.sum()):
                here = rows > 0
                return grouped_auc(score[here], clicks[here], rows[here])
        return None


def _count(counts: NDArray[np.int32], ids: NDArray[np.int32]) -> None:
    """Adds to `counts` [cardinality] how often each id occurs."""
    if len(counts) > _WIDE * len(ids):
        np.add.at(counts, ids, 1)
    else:
        counts += np.bincount(ids, minlength=len(counts)).astype(np.int32)


def _own_values(field: Field) -> tuple[str, ...]:
    """Its vocabulary; none if it is that of another field."""
    if field.same_values_as is not None or not isinstance(field.encoding, Vocabulary):
        return ()
    return field.encoding.values


def _decimal(field: Field) -> str | None:
    """A value, if all values are whole numbers with decimals: what a table with gaps makes of integers."""
    values = [value for value in _own_values(field) if value not in MISSING_WORDS]
    return values[0] if values and all(map(_DECIMAL.fullmatch, values)) else None


def _missing_word(field: Field) -> str | None:
    return next((v for v in _own_values(field) if v in MISSING_WORDS or not v.strip()), None)


def field_warnings(fields: Iterable[FieldSummary]) -> tuple[str, ...]:
    """What is suspicious in each field, with figures."""
    return tuple(warning for field in fields for warning in _warnings(field))


def _warnings(field: FieldSummary) -> Iterable[str]:
    name = f"field '{field.name}'"
    missing, unseen = field.missing["train"], field.unseen["train"]
    if field.distinct == 0:
        yield f"{name} is missing in every training row: it says nothing; check its column, or leave it out"
    elif field.distinct == 1:
        what = "one bin" if field.kind == Kind.NUMERIC else "one value"
        if unseen == 1.0:
            what = "only values that are too rare for an id of their own"
        besides = f", and is missing in {missing:.1%} of them" if missing else ": it says nothing"
        yield f"{name} has {what} in the training rows{besides}; check its column and encoding"
    elif field.largest_share >= SKEWED_SHARE:
        what = "missing" if missing == field.largest_share else "the same"
        yield f"{name} is {what} in {field.largest_share:.2%} of the training rows; it says next to nothing"
    elif unseen >= RARE_SHARE:
        yield (
            f"{name} is wide: {unseen:.1%} of its training values are too rare for one of its "
            f"{field.cardinality:,} ids; hash it, give it a smaller min_count, or leave it out"
        )
    else:
        yield from _moved(name, field)
    if field.decimal is not None:
        yield (
            f"{name} has whole numbers with decimals for values, such as {field.decimal!r}: a request that "
            f"sends {field.decimal.split('.')[0]!r} sends an unseen value; write integers into the log"
        )
    if field.missing_word is not None:
        yield (
            f"{name} has the value {field.missing_word!r}; if it means a missing one, name it in the "
            "schema's 'missing', so that a request without the field is the same"
        )
    # Clicks and non-clicks share the bin that the border between them lies in.
    blurred = min(0.02, 0.5 / max(1, field.distinct)) if field.kind == Kind.NUMERIC else 0.0
    if field.auc is not None and field.auc > LEAK_AUC - blurred:
        yield (
            f"{name} alone ranks rows that follow the training part with an AUC of {field.auc:.4f}: it "
            "probably tells the label; leave it out unless it is known before the impression"
        )


def _moved(name: str, field: FieldSummary) -> Iterable[str]:
    """A field that in the test part is not what it is in training, such as a date or a column that ended."""
    if field.missing["test"] >= MOVED_SHARE and field.missing["train"] <= FEW_SHARE:
        yield (
            f"{name} is missing in {field.missing['test']:.1%} of the test rows, and in "
            f"{field.missing['train']:.1%} of the training rows: what it taught does not serve; check its "
            "column, or leave it out"
        )
    elif field.unseen["test"] >= MOVED_SHARE:
        yield (
            f"{name} has values in the test part that training does not show ({field.unseen['test']:.1%} of "
            "them): it says nothing of later rows; leave it out, or derive from it what comes again"
        )
    elif field.test_share >= MOVED_SHARE and field.test_share_before <= FEW_SHARE:
        what = "bin" if field.kind == Kind.NUMERIC else "value"
        yield (
            f"{name} has one {what} in {field.test_share:.1%} of the test rows, and in "
            f"{field.test_share_before:.1%} of the training rows: it moves with time, and says nothing of "
            "later rows; leave it out, or derive from it what comes again"
        )


def unseen_lines(fields: Sequence[FieldSummary]) -> list[str]:
    """The fields with the most unseen, and with the most missing, values in later parts, a line each."""
    return [
        _worst("unseen values", {f.name: f.unseen for f in fields}),
        _worst("missing values", {f.name: f.missing for f in fields}),
    ]


def _worst(what: str, shares: dict[str, dict[str, float]]) -> str:
    worst = sorted(shares, key=lambda name: -shares[name]["test"])[:SHOWN]
    told = [
        f"{name} {shares[name]['test']:.1%} ({shares[name]['calibration']:.1%})"
        for name in worst
        if max(shares[name]["test"], shares[name]["calibration"]) >= UNSEEN_SHARE
    ]
    if not told:
        return f"{what}: under {UNSEEN_SHARE:.0%} of each field's in the test part"
    return f"{what}, of the test (calibration) part: {', '.join(told)}"
