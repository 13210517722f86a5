"""Ads that servers know beforehand: the same ones in the file, in the feature store, and in the requests."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from loadtest.rivals.servers.known_ads import KnownAds
from loadtest.traffic.bid_requests import BidRequestMaker
from loadtest.traffic.known_ads import (
    KEY_COLUMN,
    LIST_SEPARATOR,
    CannotLoad,
    draw_ads,
    write_known_ads,
    write_table,
)
from service.bundle.encoder import Encoder
from service.features.ads import CatalogueBuilder
from service.features.files import rows_of
from service.features.open import store_at
from service.features.shape import Shape
from service.wire import Candidate
from tests.tiny_bundle import tiny_rows, tiny_schema, write_tiny_bundle

ROWS = tiny_rows(20)


def test_the_first_ads_are_the_rows_and_others_combine_their_values() -> None:
    ads = list(draw_ads(ROWS, 200))
    assert [ad["id"] for ad in ads] == [f"ad-{number}" for number in range(200)]
    assert [ad["features"] for ad in ads[:20]] == [row["candidate"] for row in ROWS]
    for name in ("ad", "campaign"):
        values = {ad["features"].get(name) for ad in ads[20:]}
        assert values == {row["candidate"].get(name) for row in ROWS}
    combinations = {tuple(sorted(ad["features"].items())) for ad in ads}
    assert len(combinations) > 3 * len(ROWS)


def test_more_ads_begin_with_the_fewer_ones() -> None:
    assert list(draw_ads(ROWS, 100)) == list(islice(draw_ads(ROWS, 1000), 100))
    assert [ad["features"] for ad in draw_ads(ROWS, 5)] == [row["candidate"] for row in ROWS[:5]]


def test_requests_name_ads_by_id_alone_and_no_user() -> None:
    maker = BidRequestMaker(ROWS, known_ads=1000)
    seen = set()
    for _ in range(20):
        request = maker.make(30)
        body = json.loads(request.body)
        assert "user_id" not in body
        assert body["context"] in [row["context"] for row in ROWS]
        for candidate in body["candidates"]:
            assert candidate.keys() - {"bid_floor"} == {"id", "value_per_click"}
        seen |= set(request.candidate_ids)
    assert seen <= {f"ad-{number}" for number in range(1000)}
    assert len(seen) > 300


def test_rivals_and_the_catalogue_have_the_same_ids(tmp_path: Path) -> None:
    bundle = write_tiny_bundle(tmp_path / "tiny")
    known = write_known_ads(ROWS, 300, bundle, tmp_path)
    encoder = Encoder(tiny_schema())
    builder = CatalogueBuilder(encoder)
    for piece in store_at(known.store).ads():
        builder.add(piece)
    catalogue = builder.build()
    assert len(catalogue) == 300
    names = [f"ad-{number}" for number in reversed(range(300))] + ["ad-300", None, "ad-0"]
    of_a_rival = KnownAds(known.file, encoder).encode([Candidate(id=name) for name in names])
    of_the_catalogue = catalogue.ids.take(catalogue.rows_of(names), axis=0)
    np.testing.assert_array_equal(of_a_rival, of_the_catalogue)
    features = [{}, *(ad["features"] for ad in draw_ads(ROWS, 300))]
    expected = encoder.encode_candidates(features)
    np.testing.assert_array_equal(of_a_rival, expected[[*range(300, 0, -1), 0, 0, 1]])


def test_a_table_keeps_every_kind_of_value(tmp_path: Path) -> None:
    features = {
        "text": 'a "quoted", piece\nof  text ',
        "number": -0.1,
        "whole": 12345678901,
        "several": ["one word", "", "ü"],
        "empty": "",
        "none": None,
    }
    file = tmp_path / "ads.csv"
    write_table([{"id": "ad-0", "features": features}], [*features, "absent"], file)
    shape = Shape(frozenset({"number"}), frozenset({"several"}), LIST_SEPARATOR)
    (row,) = rows_of(file, shape)
    assert {name: value for name, value in row.values.items() if value is not None} == {
        KEY_COLUMN: "ad-0",
        "text": features["text"],
        "number": -0.1,
        "whole": "12345678901",
        "several": ["one word", "ü"],
    }


def test_ads_that_cannot_be_loaded_say_why(tmp_path: Path) -> None:
    with pytest.raises(CannotLoad, match=r"manifest\.json"):
        write_known_ads(ROWS, 10, tmp_path / "no bundle", tmp_path)
