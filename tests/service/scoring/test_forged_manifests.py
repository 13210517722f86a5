"""A manifest that was edited by hand: the bundle is refused in one line, or serves as the true one does."""

from __future__ import annotations

import asyncio
import copy
import hashlib
import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import helper

from loadtest.traffic.forged import replace_in
from service.bundle.errors import BundleError
from service.bundle.manifest import Description, Graph
from service.bundle.store import Bundle, Contents, load_bundle, save_bundle
from service.reading import decode_request
from service.scoring.golden import replay_golden
from service.scoring.predictor import Predictor
from service.settings import Settings
from service.wire import JSON, count_rows
from tests.forged_bundle import Place, places_in
from tests.tiny_bundle import (
    tiny_golden,
    tiny_graph,
    tiny_rows,
    tiny_schema,
    tiny_shared_graph,
    write_tiny_bundle,
)

OTHER, DYNAMIC = "int8", "dynamic"
SIZES = (1, 2, 5)  # of requests; the last is large
VALUES: tuple[Any, ...] = (None, True, 0, 1, -1, 3, 2**31, 0.5, 1e9, "", "x", "x\ny", [], {}, [None, 5])
"""What stands anywhere in place of something else, beside all that stands elsewhere in the manifest."""


def by_batch(graph: bytes) -> bytes:
    """The graph with the ranges of one activation found in each batch."""
    model = onnx.load_model_from_string(graph)
    before = next(n for n, node in enumerate(model.graph.node) if node.op_type == "MatMul")
    nodes = list(model.graph.node)
    source = nodes[before].input[0]
    nodes[before].input[0] = "found again"
    found = [
        helper.make_node("DynamicQuantizeLinear", [source], ["codes", "scale", "zero"]),
        helper.make_node("DequantizeLinear", ["codes", "scale", "zero"], ["found again"]),
    ]
    del model.graph.node[:]
    model.graph.node.extend([*nodes[:before], *found, *nodes[before:]])
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def write_bundle(folder: Path) -> Bundle:
    """Three graphs: two with a shared-context form of their own, and one whose rows depend on their batch."""
    tiny = load_bundle(write_tiny_bundle(folder))
    schema, first = tiny_schema(), tiny.manifest.graphs["float32"]
    graphs = {"float32": tiny.graphs["float32"], OTHER: tiny_graph(schema, 1)}
    graphs[DYNAMIC] = by_batch(graphs["float32"])
    assert first.shared_context is not None
    shared = msgspec.structs.replace(first.shared_context, file="model.int8.shared.onnx")
    described: dict[str, Graph] = {
        "float32": first,
        OTHER: msgspec.structs.replace(first, file="model.int8.onnx", variant=OTHER, shared_context=shared),
        DYNAMIC: msgspec.structs.replace(
            first, file="model.dynamic.onnx", variant=DYNAMIC, shared_context=None, depends_on_batch=True
        ),
    }
    calibrators = {
        name: msgspec.structs.replace(
            tiny.calibrators["float32"], variant=name, graph_sha256=hashlib.sha256(graph).hexdigest()
        )
        for name, graph in graphs.items()
    }
    said = {name: getattr(tiny.manifest, name) for name in Description.__struct_fields__}
    contents = Contents(
        schema=schema,
        graphs=graphs,
        calibrators=calibrators,
        golden=tiny_golden(schema, graphs, calibrators, tiny_rows(8)),
        shared_graphs={**tiny.shared_graphs, OTHER: tiny_shared_graph(schema, 1)},
    )
    save_bundle(folder, Description(**said | {"graphs": described}), contents)
    return load_bundle(folder)


def pctrs(bundle: Bundle, variant: str = "") -> tuple[str, NDArray[np.float64]]:
    """The variant that serves, and its pCTRs of some requests, in one batch; raises BundleError."""
    predictor = Predictor(bundle, Settings(variant=variant, max_batch_rows=8))
    asyncio.run(replay_golden(predictor))
    return predictor.variant, asyncio.run(scored(predictor))


async def scored(predictor: Predictor) -> NDArray[np.float64]:
    rows = iter(tiny_rows(sum(SIZES), seed=7))
    requests = []
    for size in SIZES:
        several = [next(rows) for _ in range(size)]
        body = {
            "context": several[0]["context"],
            "candidates": [{"features": row["candidate"]} for row in several],
        }
        request = decode_request(json.dumps(body).encode(), JSON)
        requests.append(predictor.encode(request, count_rows(request.candidates, max(SIZES))))
    if predictor.depends_on_batch:
        return np.concatenate([await predictor.score(one) for one in requests])
    return np.concatenate(await asyncio.gather(*(predictor.score(one) for one in requests)))


def at(value: Any, place: Place) -> Any:
    for key in place:
        value = value[key]
    return value


def copied(value: Any, place: Place) -> Any:
    return copy.deepcopy(at(value, place))


@pytest.fixture(scope="module")
def true_one(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, NDArray[np.float64]]]:
    """A bundle, and what each of its variants answers."""
    folder = tmp_path_factory.mktemp("forged") / "bundle"
    bundle = write_bundle(folder)
    assert bundle.manifest.graphs[DYNAMIC].is_batch_dependent
    return folder, {name: pctrs(bundle, name)[1] for name in bundle.graphs}


def test_the_graphs_of_the_bundle_differ(true_one: tuple[Path, dict[str, NDArray[np.float64]]]) -> None:
    """So that one in place of another is found."""
    answers = true_one[1]
    assert np.abs(answers["float32"] - answers[OTHER]).max() > 0.01
    assert np.abs(answers["float32"] - answers[DYNAMIC]).max() > 1e-6


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_an_edited_manifest_serves_as_the_true_one_or_is_refused_in_one_line(
    true_one: tuple[Path, dict[str, NDArray[np.float64]]], data: st.DataObject
) -> None:
    folder, answers = true_one
    path = folder / "manifest.json"
    original = path.read_bytes()
    manifest = json.loads(original)
    places = [place for place in places_in(manifest) if place]
    for _ in range(data.draw(st.integers(1, 2))):
        place = data.draw(st.sampled_from(places))
        try:
            holder = at(manifest, place[:-1])
            change = data.draw(st.sampled_from(["value", "other place", "remove", "twice", "add"]))
            if change == "remove":
                del holder[place[-1]]
            elif change == "twice" and isinstance(holder, list):
                holder.insert(0, holder[place[-1]])
            elif change == "add" and isinstance(holder, dict):
                other = data.draw(st.sampled_from(places))
                holder[str(other[-1])] = copied(manifest, other)
            elif change == "other place":
                holder[place[-1]] = copied(manifest, data.draw(st.sampled_from(places)))
            else:
                holder[place[-1]] = data.draw(st.sampled_from(VALUES))
        except (KeyError, IndexError, TypeError):
            continue  # it went with the change before
    try:
        path.write_text(json.dumps(manifest), encoding="utf-8")
        if data.draw(st.booleans()) and isinstance(manifest.get("files"), dict):
            relist(folder)
        for variant in ("", *answers):
            said = []
            try:
                served, found = pctrs(load_bundle(folder), variant)
            except BundleError as error:
                said = str(error).splitlines()
            if said:
                assert len(said) == 1
                continue
            assert variant in ("", served)
            assert variant or served != DYNAMIC
            np.testing.assert_allclose(found, answers[served], atol=1e-6)
    finally:
        path.write_bytes(original)


def relist(folder: Path) -> None:
    """The version that fits the files, if the list of files can still be read."""
    try:
        replace_in(folder, {})
    except (KeyError, TypeError):
        return


def test_a_graph_that_depends_on_its_batch_has_no_shared_form(
    true_one: tuple[Path, dict[str, NDArray[np.float64]]],
) -> None:
    folder, _ = true_one
    path = folder / "manifest.json"
    original = path.read_bytes()
    manifest = json.loads(original)
    manifest["graphs"][DYNAMIC]["shared_context"] = manifest["graphs"]["float32"]["shared_context"]
    try:
        path.write_text(json.dumps(manifest), encoding="utf-8")
        with pytest.raises(BundleError, match=r"'graphs\[dynamic\].shared_context' absent"):
            load_bundle(folder)
    finally:
        path.write_bytes(original)
