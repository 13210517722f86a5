"""One arm's bundle at work: what is refused at its start, and the pCTRs of requests."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from service.bundle.errors import BundleError
from service.bundle.schema import Hashing, Schema
from service.bundle.store import Bundle, load_bundle
from service.errors import InferenceFailed
from service.reading import decode_request
from service.scoring.predictor import Predictor
from service.scoring.rows import BatchRows
from service.settings import Settings
from service.wire import JSON


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


def test_nan_pctrs_fail_their_own_batch_only(bundle: Bundle) -> None:
    """The embedding of ad a9 is so large that the hidden layer computes infinity minus infinity."""
    model = onnx.load_from_string(bundle.graphs["float32"])
    for tensor in model.graph.initializer:
        if tensor.name == "table":
            table = numpy_helper.to_array(tensor).copy()
            ad = bundle.schema.column_slices["ad"].start
            offsets = next(t for t in model.graph.initializer if t.name == "offsets")
            row = numpy_helper.to_array(offsets)[ad] + bundle.encoder.encode_column("ad", ["a9"])[0, 0]
            table[row] = 3e38
            tensor.CopyFrom(numpy_helper.from_array(table, "table"))
    predictor = Predictor(replace(bundle, graphs={"float32": model.SerializeToString()}), Settings())

    async def score(ad: str) -> np.ndarray:
        request = decode_request(msgspec.json.encode({"candidates": [{"features": {"ad": ad}}]}), JSON)
        return await predictor.score(predictor.encode(request, 1))

    with pytest.raises(InferenceFailed):
        asyncio.run(score("a9"))
    assert np.isfinite(asyncio.run(score("a1"))).all()


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
