"""Two graphs of one function: which one scores a request, and that its bits do not show the batch."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from export.graph.shared_context import with_one_index
from service.bundle.errors import BundleError
from service.bundle.store import Bundle, load_bundle
from service.scoring.graphs import Graphs
from service.scoring.predictor import Predictor
from service.scoring.rows import BatchRows, RequestRows
from service.settings import Settings
from tests.tiny_bundle import SHARED_FROM, write_tiny_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return load_bundle(write_tiny_bundle(tmp_path_factory.mktemp("graphs") / "tiny"))


@pytest.fixture(scope="module")
def graphs(bundle: Bundle) -> Graphs:
    return Graphs(bundle, "float32", "cpu")


def request_of(bundle: Bundle, candidates: int, seed: int, is_large: bool) -> RequestRows:
    limits = {
        name: [
            field.cardinality
            for field in bundle.schema.fields
            for _ in range(field.max_length)
            if keep(field)
        ]
        for name, keep in (
            ("context", lambda field: field.name in bundle.encoder.context_names),
            ("candidates", lambda field: field.name in bundle.encoder.candidate_names),
        )
    }
    draw = np.random.default_rng(seed)
    context = draw.integers(0, limits["context"]).astype(np.int32)
    rows = draw.integers(0, limits["candidates"], (candidates, len(limits["candidates"]))).astype(np.int32)
    return RequestRows(context, rows, is_large)


def plain_logits(bundle: Bundle, graphs: Graphs, request: RequestRows) -> np.ndarray:
    small = RequestRows(request.context, request.candidates)
    return graphs.run(BatchRows.of([small]))


@settings(deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=8))
def test_the_logits_of_a_request_are_the_same_in_any_batch(
    bundle: Bundle, graphs: Graphs, sizes: list[int]
) -> None:
    requests = [request_of(bundle, size, seed, graphs.is_large(size)) for seed, size in enumerate(sizes)]
    together = graphs.run(BatchRows.of(requests))
    alone = [graphs.run(BatchRows.of([request])) for request in requests]
    np.testing.assert_array_equal(together, np.concatenate(alone))
    plain = [plain_logits(bundle, graphs, request) for request in requests]
    np.testing.assert_allclose(together, np.concatenate(plain), atol=1e-5)


def test_the_number_of_candidates_decides(graphs: Graphs) -> None:
    assert graphs.has_shared_context
    assert [graphs.is_large(size) for size in (1, SHARED_FROM - 1, SHARED_FROM, 100)] == [
        False,
        False,
        True,
        True,
    ]


def test_a_part_of_a_large_request_stays_large(bundle: Bundle) -> None:
    request = request_of(bundle, 9, 0, is_large=True)
    part = request[8:]
    assert (len(part), part.is_large) == (1, True)
    np.testing.assert_array_equal(part.context, request.context)


@pytest.mark.parametrize("at_once", [1, 2, 4])
def test_a_request_that_runs_in_parts_has_the_same_bits(bundle: Bundle, at_once: int) -> None:
    async def score(max_batch_rows: int) -> list[np.ndarray]:
        predictor = Predictor(bundle, Settings(max_batch_rows=max_batch_rows))
        requests = [request_of(bundle, size, size, predictor.graphs.is_large(size)) for size in (1, 9, 3)]
        return await asyncio.gather(*[predictor.score(request) for request in requests])

    for in_parts, whole in zip(asyncio.run(score(at_once)), asyncio.run(score(64)), strict=True):
        np.testing.assert_array_equal(in_parts, whole)


def test_without_a_shared_graph_no_request_is_large(bundle: Bundle) -> None:
    graph = msgspec.structs.replace(bundle.manifest.graphs["float32"], shared_context=None)
    manifest = msgspec.structs.replace(bundle.manifest, graphs={"float32": graph})
    graphs = Graphs(replace(bundle, manifest=manifest), "float32", "cpu")
    assert not graphs.has_shared_context
    assert not graphs.is_large(100)


def test_it_can_be_switched_off(bundle: Bundle) -> None:
    graphs = Graphs(bundle, "float32", "cpu", shares_context=False)
    assert not graphs.is_large(100)
    assert not Predictor(bundle, Settings(shared_context="off")).graphs.has_shared_context
    assert Predictor(bundle, Settings()).graphs.has_shared_context


def test_a_shared_graph_that_is_not_what_the_manifest_says_is_refused(bundle: Bundle) -> None:
    graph = bundle.manifest.graphs["float32"]
    assert graph.shared_context is not None
    swapped = tuple(graph.shared_context.inputs[position] for position in (1, 0, 2, 3))
    shared = msgspec.structs.replace(graph.shared_context, inputs=swapped)
    graph = msgspec.structs.replace(graph, shared_context=shared)
    manifest = msgspec.structs.replace(bundle.manifest, graphs={"float32": graph})
    with pytest.raises(BundleError, match=r"shared\.onnx' must be a graph with the inputs"):
        Graphs(replace(bundle, manifest=manifest), "float32", "cpu")


def test_a_graph_that_takes_one_index_in_vain_is_refused(bundle: Bundle) -> None:
    shared = {"float32": with_one_index(bundle.shared_graphs["float32"])}  # it joins both sides by a Concat
    graphs = Graphs(replace(bundle, shared_graphs=shared), "float32", "cpu")
    with pytest.raises(BundleError, match=r"shared\.onnx' must be a graph that runs"):
        graphs.warm_up(8)


def test_a_table_that_the_graph_lacks_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    graph = msgspec.structs.replace(bundle.manifest.graphs["float32"], tables=("table", "other"))
    manifest = msgspec.structs.replace(bundle.manifest, graphs={"float32": graph})
    said = r"/tiny/model\.float32\.onnx' must be .* tables table, other \(got no tensor is named other\)"
    with pytest.raises(BundleError, match=said):
        Graphs(replace(bundle, manifest=manifest, _tables={}), "float32", "cpu")
