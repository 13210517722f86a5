"""The prior of a bundle: what it gives each row, and which files are refused."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.traffic.forged import replace_in
from service.bundle.errors import BundleError
from service.bundle.manifest import Manifest
from service.bundle.prior import PRIOR_FILE, Prior, PriorField, prior_from_file, prior_to_file
from service.bundle.schema import Schema
from service.bundle.store import load_bundle
from tests.tiny_bundle import tiny_prior

Save = Callable[..., Manifest]

offsets = st.dictionaries(st.integers(0, 40), st.floats(-1e6, 1e6), min_size=1, max_size=12).map(
    lambda found: tuple(sorted(found.items()))
)
priors = st.builds(
    lambda intercept, tables, rate: Prior(
        intercept=intercept,
        fields=tuple(PriorField(f"field {n}", table) for n, table in enumerate(tables)),
        sampling_rate=rate,
        fit_rows=10,
        fit_clicks=3,
    ),
    st.floats(-1e6, 1e6),
    st.lists(offsets, max_size=4),
    st.floats(1e-6, 1.0),
)


@given(priors, st.lists(st.lists(st.integers(0, 60), min_size=4, max_size=4), min_size=1, max_size=20))
def test_each_row_has_the_sum_of_its_own_offsets(prior: Prior, rows: list[list[int]]) -> None:
    ids = [np.array([row[n] for row in rows], np.int32) for n in range(len(prior.fields))]
    found = prior.pctr(ids, len(rows))
    assert found.shape == (len(rows),)
    assert ((found >= prior.clamp_low) & (found <= prior.clamp_high)).all()
    assert prior_from_file(prior_to_file(prior)) == prior
    for number, row in enumerate(rows):
        log_odds = prior.intercept + math.log(prior.sampling_rate)
        for field, each in zip(prior.fields, row, strict=False):
            log_odds += dict(field.offsets).get(each, 0.0)
        wanted = 1.0 / (1.0 + math.exp(min(-log_odds, 700.0)))
        assert found[number] == pytest.approx(min(max(wanted, prior.clamp_low), prior.clamp_high), rel=1e-9)
        alone = prior.pctr([one[number : number + 1] for one in ids], 1)
        assert alone[0] == found[number]  # whoever is beside it


def test_a_bundle_keeps_its_prior_and_may_have_none(
    save: Save, parts: dict[str, Any], tmp_path: Path
) -> None:
    with_prior = save(tmp_path / "A")
    bundle = load_bundle(tmp_path / "A")
    assert bundle.prior == parts["prior"]
    assert bundle.manifest.files[PRIOR_FILE].size > 0
    without = save(tmp_path / "B", prior=None)
    assert load_bundle(tmp_path / "B").prior is None
    assert without.files.keys() == with_prior.files.keys() - {PRIOR_FILE}
    assert without.version != with_prior.version
    assert without.format_version == with_prior.format_version


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"intercept": 1e9}, r"at `\$.intercept`"),
        ({"clamp_low": 0.5, "clamp_high": 0.25}, "0 < low < high < 1"),
        ({"clamp_low": 0.0}, "0 < low < high < 1"),
        ({"sampling_rate": 0.0}, "'sampling_rate' is above 0"),
        ({"fit_clicks": 8, "fit_rows": 7}, "'fit_clicks' is 0 to 7"),
        ({"fields": [{"name": "hour", "offsets": [[1, 0.5]]}] * 2}, "'fields' is each another one"),
        ({"fields": [{"name": "hour", "offsets": []}]}, "length >= 1"),
        ({"fields": [{"name": "hour", "offsets": [[-1, 0.5]]}]}, ">= 0"),
        (
            {"fields": [{"name": "hour", "offsets": [[2, 0.5], [2, 0.5]]}]},
            "'offsets of 'hour'' is of ascending",
        ),
        ({"fields": [{"name": "hour", "offsets": [[1, 1e7]]}]}, "<= 1000000.0"),
        ({"fields": [{"name": "hour", "offsets": [[9, 0.5]]}]}, "is of ids below 5, as it has in the schema"),
        ({"fields": [{"name": "minute", "offsets": [[1, 0.5]]}]}, "fields of the schema with one id a row"),
        ({"fields": [{"name": "seen ☃", "offsets": [[1, 0.5]]}]}, "fields of the schema with one id a row"),
        ({"fields": [{"name": f"f{n}", "offsets": [[1, 0.5]]} for n in range(17)]}, "length <= 16"),
        ({"level": 0.5}, "unknown field `level`"),
        ({"fit_rows": None}, r"at `\$.fit_rows`"),
    ],
)
def test_a_prior_that_is_none_is_refused_by_its_name(
    save: Save, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    save(tmp_path / "A")
    found = json.loads((tmp_path / "A" / PRIOR_FILE).read_bytes())
    replace_in(tmp_path / "A", {PRIOR_FILE: json.dumps({**found, **changes}).encode()})
    with pytest.raises(BundleError, match=words) as caught:
        load_bundle(tmp_path / "A")
    assert f"/{PRIOR_FILE}' must be" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_bundle_is_saved_with_a_prior_that_no_service_loads(save: Save, tmp_path: Path) -> None:
    for prior in (tiny_prior(), tiny_prior(fields=(), clamp_low=0.0)):
        with pytest.raises(BundleError, match=PRIOR_FILE):
            save(tmp_path / "A", prior=prior)
    assert not (tmp_path / "A").exists()


def test_a_field_with_the_values_of_another_has_no_offsets(schema: Schema) -> None:
    one = schema.field("site")
    shared = type(one)("copy", one.kind, one.role, one.encoding, same_values_as="site")
    prior = tiny_prior(fields=(PriorField("copy", ((1, 0.5),)),))
    with pytest.raises(BundleError, match="values of their own"):
        prior.validate_for(Schema((one, shared)))
