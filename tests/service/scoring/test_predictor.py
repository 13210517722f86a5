"""One arm's bundle at work: what is refused at its start, and the pCTRs of requests."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from service.bidding import BidPolicy
from service.bundle.errors import BundleError
from service.bundle.schema import Hashing, Schema
from service.bundle.store import Bundle, load_bundle
from service.calibration.fit import NONE, Correction
from service.calibration.revisions import Revision
from service.errors import RowFailed
from service.metrics.families import Metrics
from service.reading import decode_request
from service.scoring.explanation import explain
from service.scoring.golden import replay_golden
from service.scoring.meter import ArmMeter
from service.scoring.predictor import Predictor
from service.scoring.rows import BatchRows, RequestRows
from service.settings import Settings
from service.wire import JSON
from tests.forged_bundle import overflow_for
from tests.running import read_metrics


@pytest.fixture
def bundle(bundles: dict[str, Path]) -> Bundle:
    return load_bundle(bundles["alpha"])


def test_the_variant_is_the_choice_of_the_bundle_or_of_the_setting(bundle: Bundle) -> None:
    assert Predictor(bundle, Settings()).variant == "float32"
    assert Predictor(bundle, Settings(variant="float32")).variant == "float32"
    with pytest.raises(BundleError, match=r"variant int8 \(got float32\); serve one of these with --variant"):
        Predictor(bundle, Settings(variant="int8"))


def test_a_graph_that_cannot_run_is_refused(bundle: Bundle) -> None:
    model = onnx.load_from_string(bundle.graphs["float32"])
    for tensor in model.graph.initializer:
        if tensor.name == "offsets":
            far = numpy_helper.to_array(tensor) + 1_000_000
            tensor.CopyFrom(numpy_helper.from_array(far, "offsets"))
    with pytest.raises(BundleError, match="a graph that runs"):
        Predictor(replace(bundle, graphs={"float32": model.SerializeToString()}), Settings())


def test_a_graph_whose_table_is_too_short_for_the_schema_is_refused(bundle: Bundle) -> None:
    """Golden rows may not contain the ids that the table lacks, but requests would fail on them."""
    *others, last = bundle.schema.fields
    longer = replace(last, encoding=Hashing(buckets=100, seed=3))
    schema = Schema((*others, longer))
    with pytest.raises(BundleError, match=r"model\.float32\.onnx' must be a graph that runs"):
        Predictor(replace(bundle, schema=schema), Settings())


@pytest.fixture
def overflowing(bundle: Bundle) -> Bundle:
    """A bundle whose weights overflow for the ad a9 alone."""
    model = onnx.load_from_string(bundle.graphs["float32"])
    offsets = next(tensor for tensor in model.graph.initializer if tensor.name == "offsets")
    ad = numpy_helper.to_array(offsets)[bundle.schema.column_slices["ad"].start]
    overflow_for(model, ad + bundle.encoder.encode_column("ad", ["a9"])[0, 0])
    return replace(bundle, graphs={"float32": model.SerializeToString()}, _tables={})


@pytest.mark.parametrize("mates", [1, 5])  # of the plain graph, and of the one with a shared context
def test_a_row_without_a_finite_logit_fails_its_own_request(
    overflowing: Bundle, mates: int, caplog: pytest.LogCaptureFixture
) -> None:
    predictor, healthy = Predictor(overflowing, Settings()), Predictor(overflowing, Settings())
    metrics = Metrics()
    predictor.meter = ArmMeter(metrics, "a", predictor.encoder.schema)

    async def score(of: Predictor, *requests: list[str]) -> list[Any]:
        rows = []
        for ads in requests:
            body = {"candidates": [{"features": {"ad": ad}} for ad in ads]}
            rows.append(of.encode(decode_request(msgspec.json.encode(body), JSON), len(ads)))
        return await asyncio.gather(*[of.score(each) for each in rows], return_exceptions=True)

    good = ["a1", "a2", "a3", "a4", "a5"][:mates]
    for _ in range(2):
        first, failed, last = asyncio.run(score(predictor, good, [*good, "a9"], good[:1]))
        assert isinstance(failed, RowFailed)
        expected = asyncio.run(score(healthy, good, good[:1]))
        for found, wanted in zip((first, last), expected, strict=True):
            np.testing.assert_array_equal(found, wanted)
    assert caplog.text.count("gives no finite logit for some rows") == 1
    assert read_metrics(metrics.exposition()[0].decode())['bidlight_failed_rows_total{arm="a"}'] == 2


def test_a_row_without_a_finite_logit_is_not_explained(overflowing: Bundle) -> None:
    predictor = Predictor(overflowing, Settings())
    body = {"candidates": [{"features": {"ad": ad}, "value_per_click": 1.0} for ad in ("a1", "a9")]}
    request = decode_request(msgspec.json.encode(body), JSON)
    with pytest.raises(RowFailed, match="candidate 1 must have a finite logit"):
        explain(predictor, request, 2, NONE, BidPolicy())


def test_an_infinite_logit_is_no_number_either(bundle: Bundle) -> None:
    predictor = Predictor(bundle, Settings())
    rows = predictor.encode(decode_request(b'{"candidates": [{}]}', JSON), 1)
    for value in (np.inf, -np.inf, np.nan):
        predictor.graphs.run = lambda _: np.array([value], np.float32)  # type: ignore[method-assign]  # noqa: B023
        with pytest.raises(RowFailed):
            asyncio.run(predictor.score(rows))
    largest = np.finfo(np.float32).max  # its square is infinite, and it is a number
    predictor.graphs.run = lambda _: np.array([largest], np.float32)  # type: ignore[method-assign]
    assert asyncio.run(predictor.score(rows)).tolist() == [predictor.calibrator.clamp_high]


def test_pctrs_are_calibrated_logits_and_rows_equal_columns(bundle: Bundle) -> None:
    predictor = Predictor(bundle, Settings())
    rows = decode_request(b'{"candidates": [{"features": {"ad": "a1"}}, {"features": {"ad": 7}}]}', JSON)
    columns = decode_request(b'{"candidates": {"features": {"ad": ["a1", 7]}}}', JSON)
    encoded, other = predictor.encode(rows, 2), predictor.encode(columns, 2)
    np.testing.assert_array_equal(other.candidates, encoded.candidates)
    np.testing.assert_array_equal(other.context, encoded.context)

    async def score() -> np.ndarray:
        return await predictor.score(encoded)

    expected = predictor.calibrator.pctr(predictor.graphs.run(BatchRows.of([encoded])))
    np.testing.assert_array_equal(asyncio.run(score()), expected)


def encoded_ads(predictor: Predictor, *ads: str) -> RequestRows:
    body = {"candidates": [{"features": {"ad": ad}} for ad in ads]}
    return predictor.encode(decode_request(msgspec.json.encode(body), JSON), len(ads))


def submitted(
    predictor: Predictor, *requests: RequestRows, revisions: Sequence[Revision | None]
) -> list[Any]:
    """What requests get that are queued together, each under a revision."""

    async def run() -> list[Any]:
        futures = []
        for request, revision in zip(requests, revisions, strict=True):
            predictor.revision = revision
            predictor.admit(len(request))
            futures.append(predictor.submit_admitted(request))
        return await asyncio.gather(*futures)

    return asyncio.run(run())


def test_a_revision_corrects_each_row_alone_and_without_one_bits_stay(bundle: Bundle) -> None:
    off, observing, on = (
        Predictor(bundle, Settings(live_calibration=mode, feedback_keys="keys", max_batch_rows=2))
        for mode in ("off", "observe", "on")
    )
    ads = ["a1", "a2", "a3", "a7", "a9"]
    requests = [encoded_ads(off, *ads), encoded_ads(off, "a5"), encoded_ads(off, "a4", "a6")]
    revisions = [Revision(7, Correction(0.3, 0.9)), None, Revision(8, Correction(-0.2, 1.1))]
    own = submitted(off, *requests, revisions=[None] * 3)
    for each, expected in zip(submitted(observing, *requests, revisions=[None] * 3), own, strict=True):
        np.testing.assert_array_equal(each, expected)
    low, high = on.calibrator.clamp_low, on.calibrator.clamp_high
    for found, revision, expected in zip(
        submitted(on, *requests, revisions=revisions), revisions, own, strict=True
    ):
        np.testing.assert_array_equal(found[:, 1], expected)
        corrected = expected if revision is None else revision.correction.pctrs(expected, low, high)
        np.testing.assert_array_equal(found[:, 0], corrected)
        assert (np.argsort(found[:, 0], kind="stable") == np.argsort(expected, kind="stable")).all()
    on.revision = revisions[0]
    np.testing.assert_array_equal(asyncio.run(on.score(requests[0])), own[0])
    asyncio.run(replay_golden(on))


def test_the_first_revision_may_come_between_the_parts_of_a_request(bundle: Bundle) -> None:
    predictor = Predictor(bundle, Settings(live_calibration="on", feedback_keys="keys", max_batch_rows=2))
    large, small = encoded_ads(predictor, "a1", "a2", "a3", "a7", "a9"), encoded_ads(predictor, "a5")
    (before,) = submitted(predictor, small, revisions=[None])
    assert before.ndim == 1

    async def run() -> list[Any]:
        futures = []
        for request, revision in ((large, None), (small, Revision(7, Correction(0.3, 0.9)))):
            predictor.revision = revision
            predictor.admit(len(request))
            futures.append(predictor.submit_admitted(request))
            await asyncio.sleep(0)
        assert not futures[0].done()
        return await asyncio.gather(*futures)

    uncorrected, corrected = asyncio.run(run())
    np.testing.assert_array_equal(uncorrected[:, 0], uncorrected[:, 1])
    np.testing.assert_array_equal(corrected[:, 1], before)
    assert (corrected[:, 0] != before).all()


def test_corrected_pctrs_keep_the_clamps_of_the_bundle(bundle: Bundle) -> None:
    predictor = Predictor(bundle, Settings(live_calibration="on", feedback_keys="keys"))
    calibrator = predictor.calibrator
    for intercept, bound in ((-100.0, calibrator.clamp_low), (100.0, calibrator.clamp_high)):
        revision = Revision(1, Correction(intercept, 1.0))
        (found,) = submitted(predictor, encoded_ads(predictor, "a1"), revisions=[revision])
        assert found[0, 0] == bound
