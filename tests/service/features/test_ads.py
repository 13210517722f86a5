"""The catalogue: the index against a dictionary, the matrix against the encoder, precedence, memory."""

from __future__ import annotations

import random
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.bundle.encoder import Encoder
from service.bundle.schema import Role
from service.features.ads import AdIndex, Catalogue, CatalogueBuilder, KnownAds, hashes_of
from service.features.store import pack
from service.wire import Candidate, CandidateColumns
from tests.tiny_bundle import tiny_rows, tiny_schema

ENCODER = Encoder(tiny_schema())
NAMES = [field.name for field in tiny_schema().fields if field.role is Role.CANDIDATE]


def catalogue_of(ads: dict[str, dict[str, Any]], piece: int = 3) -> Catalogue:
    builder = CatalogueBuilder(ENCODER)
    entries = [(name, pack(features)) for name, features in ads.items()]
    for start in range(0, len(entries), piece):
        builder.add(entries[start : start + piece])
    assert not builder.refused
    return builder.build()


@given(st.lists(st.text(max_size=4), max_size=200), st.lists(st.none() | st.text(max_size=4), max_size=50))
def test_the_index_is_a_dictionary(ids: list[str], asked: list[str | None]) -> None:
    rows = {name: row for row, name in enumerate(ids)}  # of one id, the last row holds
    index = AdIndex(hashes_of(ids))
    assert len(index) == len(rows)
    asked = asked + ids[:20]
    expected = [len(ids) if name is None else rows.get(name, len(ids)) for name in asked]
    assert index.rows_of(hashes_of(asked)).tolist() == expected


@given(
    st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 3) | st.integers(2**64 - 3, 2**64 - 1), max_size=99)
)
def test_the_index_holds_any_hashes(hashes: list[int]) -> None:
    index = AdIndex(np.array(hashes, np.uint64))
    rows = {value: row for row, value in enumerate(hashes)}
    asked = [*hashes, 0, 1, 2**63, 2**64 - 1]
    found = index.rows_of(np.array(asked, np.uint64)).tolist()
    assert found == [rows.get(value, len(hashes)) for value in asked]


def test_a_large_index_finds_all_and_no_other() -> None:
    ids = [f"ad-{n}" for n in range(50_000)]
    random.Random(1).shuffle(ids)
    index = AdIndex(hashes_of(ids))
    assert np.array_equal(index.rows_of(hashes_of(ids)), np.arange(len(ids)))
    others = hashes_of([f"ad-{n}" for n in range(50_000, 100_000)])
    assert (index.rows_of(others) == index.missing_row).all()


def test_a_million_ads_fit_in_200_megabytes() -> None:
    ads, columns = 1_000_000, 20
    tracemalloc.start()
    try:
        old = [
            AdIndex(np.random.default_rng(0).integers(0, 2**64, ads, np.uint64)),
            np.ones((ads, columns), "i4"),
        ]
        kept, _ = tracemalloc.get_traced_memory()
        AdIndex(np.random.default_rng(1).integers(0, 2**64, ads, np.uint64))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert old
    assert kept < 100e6
    assert peak < 160e6  # also while another index is built beside it


def test_rows_are_what_the_encoder_gives() -> None:
    ads = {f"ad-{n}": row["candidate"] for n, row in enumerate(tiny_rows(100, seed=3))}
    catalogue = catalogue_of(ads)
    expected = ENCODER.encode_candidates(list(ads.values()))
    found = catalogue.ids[catalogue.rows_of(list(ads))]
    assert np.array_equal(found, expected)
    assert len(catalogue) == 100
    assert not catalogue.ids[catalogue.missing_row].any()


def test_what_an_ad_should_not_have_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    builder = CatalogueBuilder(ENCODER)
    good = {"ad": "a1", "campaign": 1001}
    builder.add(
        [
            ("good", pack(good)),
            ("half", pack({"ad": {"no": "category"}, "campaign": 1001})),
            ("none", b"\xc1"),
            ("odd", pack({"ad": True, "campaign": 1.5, "no field": [1, 2]})),
        ]
    )
    assert (builder.refused, builder.unreadable) == (3, 1)
    catalogue = builder.build()
    assert len(catalogue) == 3
    assert catalogue.rows_of(["none"]).tolist() == [catalogue.missing_row]
    assert catalogue.known_values == 3
    expected = ENCODER.encode_candidates([good, {"campaign": 1001}, {}, {}])
    assert np.array_equal(catalogue.ids[catalogue.rows_of(["good", "half", "none", "odd"])], expected)
    assert "a feature of an ad is left out" in caplog.text
    assert "the ad 'none' is left out" in caplog.text


ADS = {f"ad-{n}": row["candidate"] for n, row in enumerate(tiny_rows(9, seed=8))}
GIVEN = st.fixed_dictionaries(
    {}, optional={"ad": st.sampled_from(["a1", "a7", None]), "campaign": st.just(1009)}
)
ROWS = st.lists(st.tuples(st.sampled_from([*ADS, "unknown", None]), GIVEN), min_size=1, max_size=12)


@given(ROWS)
def test_what_a_candidate_gives_wins_field_by_field(rows: list[tuple[str | None, dict[str, Any]]]) -> None:
    known = KnownAds(ENCODER)
    candidates = [Candidate(id=name, features=features) for name, features in rows]
    ids, unknown = known.encode(catalogue_of(ADS), candidates, len(rows))
    merged = [{**ADS.get(name or "", {}), **features} for name, features in rows]
    assert np.array_equal(ids, ENCODER.encode_candidates(merged))
    assert unknown == sum(name == "unknown" and len(features) < 2 for name, features in rows)


@given(ROWS, st.sets(st.sampled_from(NAMES)), st.booleans())
def test_a_column_that_is_given_wins(
    rows: list[tuple[str | None, dict[str, Any]]], names: set[str], has_ids: bool
) -> None:
    known = KnownAds(ENCODER)
    columns = {name: [features.get(name) for _, features in rows] for name in names}
    ad_ids = [name for name, _ in rows] if has_ids else None
    candidates = CandidateColumns(id=ad_ids, features=columns)
    ids, unknown = known.encode(catalogue_of(ADS), candidates, len(rows))
    stored = [ADS.get(name or "", {}) if has_ids else {} for name, _ in rows]
    merged = [
        {**of_store, **{name: features.get(name) for name in names}}
        for of_store, (_, features) in zip(stored, rows, strict=True)
    ]
    assert np.array_equal(ids, ENCODER.encode_candidates(merged))
    expected = sum(name == "unknown" for name, _ in rows) if has_ids and len(names) < len(NAMES) else 0
    assert unknown == expected
