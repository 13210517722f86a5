"""Calibration by one field's values at work: both graphs, any mix of requests, the catalogue, golden rows."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from service.bundle.calibration import segments_of
from service.bundle.errors import BundleError
from service.bundle.schema import Role, Schema
from service.bundle.store import Bundle, load_bundle
from service.features.ads import CatalogueBuilder
from service.features.store import pack
from service.reading import decode_request
from service.scoring.golden import replay_golden
from service.scoring.predictor import Predictor
from service.scoring.rows import Column, RequestRows
from service.settings import Settings
from service.wire import JSON
from tests.running import RunningApp
from tests.tiny_bundle import SHARED_FROM, tiny_rows, tiny_schema, write_tiny_bundle

FIELDS = ("site", "hour", "ad", "campaign")


def offsets_of(schema: Schema, name: str) -> tuple[tuple[int, float], ...]:
    """Another one for every second id, missing and unknown values among them."""
    return tuple((number, 0.4 * number - 1.0) for number in range(0, schema.field(name).cardinality, 2))


@pytest.fixture(scope="module", params=FIELDS)
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    calibration = {
        "segment_field": request.param,
        "segment_offsets": offsets_of(tiny_schema(), request.param),
    }
    folder = tmp_path_factory.mktemp("by") / request.param
    return load_bundle(write_tiny_bundle(folder, calibration=calibration))


def requests_of(predictor: Predictor, sizes: tuple[int, ...]) -> list[RequestRows]:
    """Encoded requests of so many candidates each."""
    found = []
    for number, size in enumerate(sizes):
        rows = tiny_rows(size, seed=number)
        body = {
            "context": rows[0]["context"],
            "candidates": [{"features": row["candidate"]} for row in rows],
        }
        found.append(predictor.encode(decode_request(msgspec.json.encode(body), JSON), size))
    return found


def scored(predictor: Predictor, requests: list[RequestRows]) -> list[NDArray[np.float64]]:
    """The pCTRs of each request, all submitted in the same tick."""

    async def score() -> list[NDArray[np.float64]]:
        return list(await asyncio.gather(*[predictor.score(each) for each in requests]))

    return asyncio.run(score())


def test_columns_are_found_among_those_of_their_role() -> None:
    schema = tiny_schema()
    assert [Column.of(schema, name) for name in FIELDS] == [
        Column(Role.CONTEXT, 0),
        Column(Role.CONTEXT, 1),
        Column(Role.CANDIDATE, 0),
        Column(Role.CANDIDATE, 1),
    ]


@pytest.mark.parametrize("sizes", [(1,), (7,), (1, 1, 1), (1, SHARED_FROM, 7, 2, 40)])
@pytest.mark.parametrize("shared_context", ["on", "off"])
def test_pctrs_have_the_offset_of_each_row_s_own_id(
    bundle: Bundle, sizes: tuple[int, ...], shared_context: Any
) -> None:
    predictor = Predictor(bundle, Settings(shared_context=shared_context))
    requests = requests_of(predictor, sizes)
    calibrator = bundle.calibrators["float32"]
    plain = msgspec.structs.replace(calibrator, segment_field=None, segment_offsets=())
    without = Predictor(
        replace(bundle, calibrators={"float32": plain}), Settings(shared_context=shared_context)
    )
    moved = 0
    for request, found, other in zip(
        requests, scored(predictor, requests), scored(without, requests), strict=True
    ):
        ids = predictor.encoder.join(request.context[None], request.candidates)
        segments = segments_of(calibrator, bundle.schema, ids)
        assert segments is not None
        by_row = [dict(calibrator.segment_offsets).get(int(each), 0.0) for each in segments]
        odds = other / (1 - other) * np.exp(by_row)
        np.testing.assert_allclose(found, odds / (1 + odds), rtol=1e-9)
        moved += int((found != other).sum())
        alone = scored(predictor, [request])[0]
        assert found.tobytes() == alone.tobytes()
    assert moved or len(sizes) < 5


def test_golden_rows_pass_and_another_offset_is_refused(bundle: Bundle) -> None:
    asyncio.run(replay_golden(Predictor(bundle, Settings())))
    calibrator = bundle.calibrators["float32"]
    raised = tuple((number, offset + 0.01) for number, offset in calibrator.segment_offsets)
    other = msgspec.structs.replace(calibrator, segment_offsets=raised)
    with pytest.raises(BundleError, match=r"to (give|state) a pCTR from"):
        asyncio.run(replay_golden(Predictor(replace(bundle, calibrators={"float32": other}), Settings())))


def test_an_ad_of_the_catalogue_has_the_offset_of_its_values(bundle: Bundle) -> None:
    predictor = Predictor(bundle, Settings())
    ads = [row["candidate"] for row in tiny_rows(6, seed=5)]
    context = {"site": "s1", "hour": 7}
    sent = {"context": context, "candidates": [{"features": ad} for ad in ads]}
    expected = scored(predictor, [predictor.encode(decode_request(msgspec.json.encode(sent), JSON), 6)])[0]
    builder = CatalogueBuilder(predictor.encoder)
    builder.add([(f"ad-{number}", pack(ad)) for number, ad in enumerate(ads)])
    predictor.known_ads.catalogue = builder.build()
    by_id = {"context": context, "candidates": [{"id": f"ad-{number}"} for number in range(6)]}
    request = predictor.encode(decode_request(msgspec.json.encode(by_id), JSON), 6)
    assert request.unknown_ads == 0
    np.testing.assert_array_equal(scored(predictor, [request])[0], expected)


def test_the_arms_name_the_field(bundle: Bundle, run_app: Callable[..., RunningApp]) -> None:
    app = run_app(arms=(f"by={bundle.folder}",))
    (arm,) = app.get("/arms").json()["arms"]
    assert arm["calibration"]["segment_field"] == bundle.calibrators["float32"].segment_field
    (plain,) = run_app().get("/arms").json()["arms"]
    assert plain["calibration"]["segment_field"] is None
