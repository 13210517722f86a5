"""A bundle that does not reproduce its golden rows is refused, and the error names the row."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from service.bundle.errors import BundleError
from service.bundle.manifest import Golden
from service.bundle.schema import Hashing, Schema
from service.bundle.store import Bundle, load_bundle
from service.errors import InferenceFailed
from service.scoring.predictor import Predictor
from service.scoring.rows import BatchRows
from service.settings import Settings
from service.wire import JSON, decode_request


@pytest.fixture
def bundle(bundles: dict[str, Path]) -> Bundle:
    return load_bundle(bundles["alpha"])


def replay(bundle: Bundle, **settings: Any) -> None:
    asyncio.run(Predictor(bundle, Settings(**settings)).replay_golden())


def with_outputs(golden: Golden, **changes: Any) -> Golden:
    outputs = msgspec.structs.replace(golden.variants["float32"], **changes)
    return msgspec.structs.replace(golden, variants={"float32": outputs})


def moved(values: tuple[float, ...], row: int, by: float) -> tuple[float, ...]:
    return (*values[:row], values[row] + by, *values[row + 1 :])


@pytest.mark.parametrize("queued", [20_000, 3])
def test_golden_rows_pass(bundle: Bundle, queued: int) -> None:
    replay(bundle, max_queued_rows=queued, max_candidates=1, max_batch_rows=2)


CORRUPTIONS: dict[str, tuple[Callable[[Golden], Golden], str]] = {
    "ids": (
        lambda g: msgspec.structs.replace(g, ids=(*g.ids[:2], (0,) * len(g.ids[0]), *g.ids[3:])),
        r"row 2 to give ids \[0",
    ),
    "logit": (
        lambda g: with_outputs(g, logits=moved(g.variants["float32"].logits, 3, 0.01)),
        "row 3 to give logit",
    ),
    "pctr": (
        lambda g: with_outputs(g, pctrs=moved(g.variants["float32"].pctrs, 1, 0.001)),
        "row 1 to state a pCTR from",
    ),
    "nan": (
        lambda g: with_outputs(g, logits=moved(g.variants["float32"].logits, 0, float("nan"))),
        "row 0 to give logit nan",
    ),
    "no outputs": (lambda g: msgspec.structs.replace(g, variants={}), "outputs of variant float32"),
    "no rows": (lambda g: msgspec.structs.replace(g, rows=(), ids=()), "a golden row or more"),
    "bad value": (
        lambda g: msgspec.structs.replace(
            g, rows=(msgspec.structs.replace(g.rows[0], context={"site": True}), *g.rows[1:])
        ),
        "rows that this service can score",
    ),
}


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_golden_row_that_differs_is_named(bundle: Bundle, name: str) -> None:
    corrupt, message = CORRUPTIONS[name]
    with pytest.raises(BundleError, match=rf"alpha/golden.json' must be .*{message}"):
        replay(replace(bundle, golden=corrupt(bundle.golden)))


def test_a_calibrator_that_does_not_match_the_golden_rows_is_refused(bundle: Bundle) -> None:
    other = msgspec.structs.replace(bundle.calibrators["float32"], method="identity", knots=())
    with pytest.raises(BundleError, match="pCTR from"):
        replay(replace(bundle, calibrators={"float32": other}))


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
