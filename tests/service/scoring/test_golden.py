"""A bundle that does not reproduce its golden rows is refused, and the error names the row."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from export.graph.shared_context import with_one_index
from service.bundle.errors import BundleError
from service.bundle.manifest import Golden
from service.bundle.store import Bundle, load_bundle
from service.scoring.golden import replay_golden
from service.scoring.predictor import Predictor
from service.settings import Settings


@pytest.fixture
def bundle(bundles: dict[str, Path]) -> Bundle:
    return load_bundle(bundles["alpha"])


def replay(bundle: Bundle, **settings: Any) -> None:
    asyncio.run(replay_golden(Predictor(bundle, Settings(**settings))))


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


def test_a_graph_that_takes_one_index_but_gives_other_logits_by_it_is_refused(bundle: Bundle) -> None:
    """Alone, and in a batch of several requests, its logits are right."""
    assert of_one_index(bundle, off_by=0.0) is None
    assert re.search("golden.json' must be .*row 0 to give logit", str(of_one_index(bundle, off_by=0.5)))


def of_one_index(bundle: Bundle, off_by: float) -> BundleError | None:
    """Why a bundle is refused whose graph adds this for each row that has no index of its own."""
    model = onnx.load_model_from_string(bundle.shared_graphs["float32"])
    graph, off = model.graph, numpy_helper.from_array(np.array(off_by, np.float32), "off by")
    graph.initializer.append(off)
    for node in graph.node:
        node.input[:] = ["index of each" if name == "request_index" else name for name in node.input]
        node.output[:] = ["right" if name == "logits" else name for name in node.output]
    before = [
        helper.make_node("Shape", ["candidate_ids"], ["rows"], start=0, end=1),
        helper.make_node("Shape", ["request_index"], ["given"], start=0, end=1),
        helper.make_node("Expand", ["request_index", "rows"], ["index of each"]),
    ]
    after = [
        helper.make_node("Sub", ["rows", "given"], ["without"]),
        helper.make_node("Cast", ["without"], ["number"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["number", "off by"], ["error"]),
        helper.make_node("Add", ["right", "error"], ["logits"]),
    ]
    nodes = [*before, *graph.node, *after]
    del graph.node[:]
    graph.node.extend(nodes)
    forged = {"float32": with_one_index(model.SerializeToString())}
    try:
        replay(replace(bundle, shared_graphs=forged))
    except BundleError as error:
        return error
    return None
