"""The prior that an export fits: what it finds in a log whose click rates are known."""

from __future__ import annotations

import numpy as np
import pytest

from export.data.parts import Part
from export.judge.metrics import sigmoid
from export.stages.field_prior import LEAST_GAIN, MOST_FIELDS, fit_prior
from export.stages.variants import Variant
from service.bundle.schema import Bins, Field, Kind, Role, Schema, Vocabulary

# The log-odds that each value of a field adds: an ad's campaign, the site, and one that says nothing.
CAMPAIGNS = np.array([0.0, 0.0, *np.linspace(-1.5, 1.0, 7), 1.0])
SITES = np.array([0.0, 0.0, *np.linspace(-1.0, 1.0, 4)])
SCHEMA = Schema(
    (
        Field("site", Kind.CATEGORICAL, Role.CONTEXT, Vocabulary(tuple("abcd"))),
        Field("hour", Kind.NUMERIC, Role.CONTEXT, Bins((6.0, 12.0, 18.0))),
        Field("seen", Kind.SEQUENCE, Role.CONTEXT, Vocabulary(("x", "y")), max_length=2),
        Field("campaign", Kind.CATEGORICAL, Role.CANDIDATE, Vocabulary(tuple("abcdefgh"))),
        Field("creative", Kind.CATEGORICAL, Role.CANDIDATE, Vocabulary(tuple(f"c{n}" for n in range(80)))),
    )
)


def part(rows: int, seed: int, level: float = -2.0, effect: float = 1.0) -> Part:
    """Rows whose clicks are drawn by site and campaign; a creative belongs to one campaign, ten to each."""
    draw = np.random.default_rng(seed)
    site, hour = draw.integers(2, 6, rows), draw.integers(2, 6, rows)
    creative = draw.integers(2, 82, rows)
    campaign = 2 + (creative - 2) % 8
    true = sigmoid(level + effect * (CAMPAIGNS[campaign] + SITES[site]))
    seen = draw.integers(0, 4, (rows, 2))
    ids = np.column_stack([site, hour, seen, campaign, creative]).astype(np.int32)
    labels = (draw.random(rows) < true).astype(np.uint8)
    return Part(ids, labels, true.astype(np.float32), np.arange(rows, dtype=np.int64))


def log(**of_parts: Part) -> dict[str, Part]:
    usual = {"train": part(40_000, 0), "validation": part(10_000, 1), "test": part(10_000, 2)}
    return {**usual, **of_parts}


def variant(renumberings: dict[str, np.ndarray] | None = None) -> Variant:
    return Variant("float32", b"", SCHEMA, renumberings or {})


def test_the_fields_that_decide_are_found_a_candidates_first() -> None:
    parts = log(validation=part(10_000, 1, level=-1.6), test=part(10_000, 2, level=-1.6))
    prior = fit_prior(parts, variant(), SCHEMA)
    assert prior is not None
    assert prior.names == ("campaign", "site")  # neither what has more values nor what says nothing
    for field, wanted in zip(prior.fields, (CAMPAIGNS, SITES), strict=True):
        found = field.table()[2 : len(wanted)]
        assert found - found.mean() == pytest.approx(wanted[2:] - wanted[2:].mean(), abs=0.25)
    assert prior.validation is not None
    assert prior.test is not None
    assert prior.validation.pcoc == pytest.approx(1.0, abs=1e-9)  # at the level of later rows
    assert prior.test.pcoc == pytest.approx(1.0, abs=0.1)
    assert prior.test.auc_of_true_pctr is not None
    assert prior.test.auc == pytest.approx(prior.test.auc_of_true_pctr, abs=0.01)
    assert prior.test.ne < 1 - LEAST_GAIN
    assert (prior.fit_rows, prior.fit_window) == (40_000, (0, 39_999))
    prior.validate()
    prior.validate_for(SCHEMA)


def test_ids_are_those_of_the_graph() -> None:
    renumbering = np.array([0, 1, 2, 3, 4, 5, 6, 7, 8, 8], np.int32)
    schema = SCHEMA.renumbered({"campaign": renumbering})
    prior = fit_prior(log(), variant({"campaign": renumbering}), schema)
    assert prior is not None
    prior.validate_for(schema)
    merged = dict(next(field for field in prior.fields if field.name == "campaign").offsets)
    assert merged.keys() == {*range(2, 9)}


def test_a_log_that_says_nothing_has_one_rate_at_the_sampled_level() -> None:
    parts = log(**{name: part(5_000, seed, effect=0.0) for seed, name in enumerate(log())})
    prior = fit_prior(parts, variant(), SCHEMA, sampling_rate=0.1)
    assert prior is not None
    assert prior.fields == ()
    clicks = float(parts["validation"].labels.mean())
    odds = 0.1 * clicks / (1 - clicks)
    assert prior.pctr((), 2) == pytest.approx([odds / (1 + odds)] * 2)
    assert prior.validation is not None
    assert prior.validation.pcoc == pytest.approx(1.0)  # in the log's own distribution
    assert len(prior.names) <= MOST_FIELDS


def test_parts_without_a_click_have_no_prior() -> None:
    none = part(100, 0)
    none.labels[:] = 0
    assert fit_prior(log(validation=none), variant(), SCHEMA) is None
    assert fit_prior(log(train=none), variant(), SCHEMA) is None
