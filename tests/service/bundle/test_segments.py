"""Offsets by the values of one field: they reach the rows of their value alone, and must fit the schema."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.bundle.calibration import (
    Calibrator,
    Quality,
    calibrators_from_file,
    calibrators_to_file,
    segments_of,
)
from service.bundle.errors import BundleError
from service.bundle.manifest import Manifest
from service.bundle.schema import Schema
from service.bundle.store import load_bundle

QUALITY = Quality(logloss=0.5, ece=0.01, pcoc=1.0)
Save = Callable[..., Manifest]


def calibrator(**values: Any) -> Calibrator:
    valid = {
        "variant": "int8",
        "graph_sha256": "ab" * 32,
        "method": "platt",
        "slope": 0.8,
        "intercept": -0.1,
        "fit_rows": 10,
        "fit_clicks": 2,
        "before": QUALITY,
        "after": QUALITY,
    }
    return Calibrator(**{**valid, **values})


offsets = st.dictionaries(st.integers(0, 40), st.floats(-8, 8), min_size=1, max_size=12).map(
    lambda found: tuple(sorted(found.items()))
)
rows = st.lists(st.tuples(st.floats(-30, 30, width=32), st.integers(0, 60)), min_size=1, max_size=40)


@st.composite
def calibrators(draw: st.DrawFn) -> Calibrator:
    method: dict[str, Any] = draw(
        st.sampled_from(
            [
                {"method": "identity", "slope": 1.0, "intercept": 0.0},
                {"method": "platt"},
                {"method": "beta", "low_slope": 1.3},
                {"method": "isotonic", "knots": ((-3.0, -4.0), (0.0, -1.0), (2.0, 2.5))},
            ]
        )
    )
    fitted = calibrator(
        **method,
        sampling_rate=draw(st.sampled_from([1.0, 0.1])),
        segment_field="site",
        segment_offsets=draw(offsets),
    )
    fitted.validate()
    return fitted


@given(calibrators(), rows)
def test_a_row_gets_the_offset_of_its_own_id_whatever_its_batch(
    fitted: Calibrator, drawn: list[tuple[float, int]]
) -> None:
    logits, ids = np.array([x for x, _ in drawn], np.float32), np.array([i for _, i in drawn], np.int32)
    plain = msgspec.structs.replace(fitted, segment_field=None, segment_offsets=())
    expected = plain.calibrated_logits(logits) + [dict(fitted.segment_offsets).get(i, 0.0) for _, i in drawn]
    np.testing.assert_array_equal(fitted.calibrated_logits(logits, ids), expected)
    together = fitted.pctr(logits, ids)
    alone = [fitted.pctr(logits[n : n + 1], ids[n : n + 1]) for n in range(len(ids))]
    assert together.tobytes() == np.concatenate(alone).tobytes()
    assert together[::-1].tobytes() == fitted.pctr(logits[::-1], ids[::-1]).tobytes()
    one = np.full_like(ids, ids[0])
    assert fitted.pctr(logits, ids[:1]).tobytes() == fitted.pctr(logits, one).tobytes()
    assert (np.diff(fitted.pctr(np.sort(logits), one)) >= 0).all()


@given(st.lists(calibrators(), max_size=3))
def test_the_file_gives_back_the_offsets(fitted: list[Calibrator]) -> None:
    named = [msgspec.structs.replace(each, variant=f"v{n}") for n, each in enumerate(fitted)]
    assert list(calibrators_from_file(calibrators_to_file(named)).values()) == named


def test_a_calibrator_from_before_there_were_offsets_is_read() -> None:
    data = calibrators_to_file([calibrator()])
    older = re.sub(rb'\s*"segment_(field|offsets)": (null|\[\]),', b"", data)
    assert b"segment" in data
    assert b"segment" not in older
    assert calibrators_from_file(older) == {"int8": calibrator()}


def test_ids_that_are_left_out_are_an_error_and_not_offsets_of_zero() -> None:
    fitted = calibrator(segment_field="site", segment_offsets=((2, 0.5),))
    with pytest.raises(ValueError, match=r"'segments' must be the rows' ids of 'site' \(got None\)"):
        fitted.pctr(np.zeros(3, np.float32))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"segment_offsets": ((2, 0.1),)}, "empty without a segment_field"),
        ({"segment_field": "site"}, "'segment_offsets' of 'int8' is at least 1 .*none"),
        ({"segment_field": "site", "segment_offsets": ((2, math.nan),)}, r"segment_offsets\[0\].* finite"),
        ({"segment_field": "site", "segment_offsets": ((2, math.inf),)}, r"segment_offsets\[0\].* finite"),
        ({"segment_field": "site", "segment_offsets": ((-1, 0.1),)}, "an id above -1"),
        ({"segment_field": "site", "segment_offsets": ((2, 0.1), (2, 0.2))}, "an id above 2"),
        ({"segment_field": "site", "segment_offsets": ((3, 0.1), (2, 0.2))}, r"\[1\].* an id above 3"),
    ],
)
def test_offsets_that_contradict_themselves_are_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(BundleError, match=words) as caught:
        calibrators_to_file([calibrator(**values)])
    assert caught.value.file == "calibration.json"


def with_offsets(parts: dict[str, Any], **values: Any) -> dict[str, Calibrator]:
    """The calibrators of the graphs with these values."""
    return {
        variant: calibrator(
            variant=variant, graph_sha256=hashlib.sha256(parts["graphs"][variant]).hexdigest(), **values
        )
        for variant in parts["graphs"]
    }


@pytest.mark.parametrize("name", ["site", "../ad", "hour", "campaign"])
def test_a_bundle_keeps_offsets_of_any_field_with_one_id_a_row(
    tmp_path: Path, save: Save, parts: dict[str, Any], schema: Schema, name: str
) -> None:
    last = schema.field(name).cardinality - 1
    calibrators = with_offsets(parts, segment_field=name, segment_offsets=((0, -0.5), (last, 0.25)))
    save(tmp_path / "bundle", calibrators=calibrators)
    bundle = load_bundle(tmp_path / "bundle")
    assert bundle.calibrators == calibrators
    ids = np.arange(schema.columns, dtype=np.int32)[None]
    found = segments_of(bundle.calibrators["int8"], bundle.schema, ids)
    assert found is not None
    assert found.tolist() == [bundle.schema.column_slices[name].start]


@pytest.mark.parametrize(
    ("name", "last", "words"),
    [
        ("nowhere", 2, "'segment_field' of 'pruned' is a field of the schema that is no sequence"),
        ("seen ☃", 2, "a field of the schema that is no sequence"),
        ("site", 6, "ids below 6, as 'site' has in the schema .*got 6"),
        # The encoding has 11 ids; compaction left 8.
        ("../ad", 8, "ids below 8, as '../ad' has in the schema .*got 8"),
    ],
)
def test_offsets_that_do_not_fit_the_schema_are_refused(
    tmp_path: Path, save: Save, parts: dict[str, Any], name: str, last: int, words: str
) -> None:
    calibrators = with_offsets(parts, segment_field=name, segment_offsets=((last, 0.25),))
    with pytest.raises(BundleError, match=words):
        save(tmp_path / "bundle", calibrators=calibrators)
    assert not (tmp_path / "bundle").exists()
