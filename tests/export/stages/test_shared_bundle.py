"""A bundle exported with shared-context graphs, and the service's predictor of it."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import msgspec
import numpy as np
import pytest

from export.compress.choice import PruneChoice
from export.graph.tables import tables_in
from export.stages.pipeline import run
from export.stages.plan import Plan
from service.bundle.manifest import ONE_OR_ROWS
from service.bundle.store import Bundle, load_bundle
from service.reading import decode_request
from service.scoring.golden import replay_golden
from service.scoring.predictor import Predictor
from service.scoring.rows import BatchRows, RequestRows
from service.settings import Settings
from service.wire import JSON

CANDIDATES = 300


@pytest.fixture(scope="module")
def bundle(tiny_plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A table large enough to share, and a wide layer of mostly context: shared graphs are much faster."""
    folder = tmp_path_factory.mktemp("shared")
    plan = replace(
        tiny_plan,
        out=folder / "shared",
        work=folder / "work",
        hyperparameters={"dim": 32, "hidden_units": [512]},
        training=tiny_plan.training.updated(epochs=1),
        pruning=PruneChoice(preset="none"),
    )
    run(plan, say=str)
    return load_bundle(plan.out)


def test_the_shared_graph_ships_without_the_tables(bundle: Bundle) -> None:
    graph = bundle.manifest.graphs["float32"]
    record = graph.shared_context
    assert record is not None
    assert 2 <= record.from_candidates <= CANDIDATES
    assert record.file in bundle.manifest.files
    shared = bundle.shared_graphs["float32"]
    assert (bundle.folder / record.file).read_bytes() == shared
    assert graph.tables == tables_in(bundle.graphs["float32"]) != ()
    assert {tensor.name for tensor in record.inputs} > {*graph.tables}
    assert tables_in(shared) == ()
    assert ONE_OR_ROWS.encode() in shared  # what a request shares is broadcast


@pytest.mark.parametrize("variant", ["float32", "int8"])
def test_the_predictor_scores_large_requests_alike_with_both_graphs(bundle: Bundle, variant: str) -> None:
    record = bundle.manifest.graphs[variant].shared_context
    assert record is not None
    rows = bundle.golden.rows
    body = {
        "context": rows[0].context,
        "candidates": [{"features": rows[number % len(rows)].candidate} for number in range(CANDIDATES)],
    }
    request = decode_request(msgspec.json.encode(body), JSON)
    found = {}
    for shared_context in ("on", "off"):
        predictor = Predictor(bundle, Settings(variant=variant, shared_context=shared_context))
        encoded = predictor.encode(request, CANDIDATES)
        assert encoded.is_large is (shared_context == "on")
        if encoded.is_large:  # its last candidate alone, as in all of it
            alone = predictor.graphs.run(BatchRows.of([encoded[-1:]]))
            assert predictor.graphs.run(BatchRows.of([encoded, encoded]))[-1] == alone[0]
            assert predictor.graphs.run(BatchRows.of([encoded]))[-1] == alone[0]
        assert not predictor.graphs.is_large(record.from_candidates - 1)
        found[shared_context] = asyncio.run(scored(predictor, encoded))
        asyncio.run(replay_golden(predictor))
    assert len(found["on"]) == CANDIDATES
    assert np.ptp(found["off"]) > 0.0
    np.testing.assert_allclose(found["on"], found["off"], rtol=0.0, atol=1e-5)


async def scored(predictor: Predictor, encoded: RequestRows) -> np.ndarray:
    return np.array(await predictor.score(encoded))
