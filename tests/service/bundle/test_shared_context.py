"""The description of a graph with a shared context is kept, and refused if it is contradictory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from service.bundle.errors import BundleError
from service.bundle.store import load_bundle
from tests.tiny_bundle import SHARED_FROM, write_tiny_bundle


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A valid bundle."""
    return write_tiny_bundle(tmp_path / "tiny")


def test_both_graphs_and_their_one_table_are_read(folder: Path) -> None:
    bundle = load_bundle(folder)
    shared = bundle.manifest.graphs["float32"].shared_context
    assert shared is not None
    assert shared.from_candidates == SHARED_FROM
    assert bundle.shared_graphs["float32"] == (folder / shared.file).read_bytes()
    assert bundle.tables("float32").keys() == {"table"}
    assert bundle.tables("float32") is bundle.tables("float32")
    assert len(bundle.shared_graphs["float32"]) < len(bundle.graphs["float32"])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"file": "other.onnx"}, r"shared_context.file' one of 'files' \(got 'other.onnx'\)"),
        ({"from_candidates": 0}, r"`int` >= 1 - at `\$.graphs\[...\].shared_context.from_candidates`"),
        ({"tables": []}, r"request_index and tables of model.float32.onnx"),
        ({"swapped": True}, r"shared_context.inputs' context_ids, candidate_ids, request_index"),
        ({"columns": 9}, r"such that 'context_ids' of float32 has shape \(None, 5\), as the schema \(got"),
    ],
)
def test_contradictions_are_refused(folder: Path, changed: dict[str, Any], message: str) -> None:
    path = folder / "manifest.json"
    manifest = json.loads(path.read_bytes())
    graph = manifest["graphs"]["float32"]
    shared = graph["shared_context"]
    graph["tables"] = changed.pop("tables", graph["tables"])
    if changed.pop("swapped", False):
        shared["inputs"][0], shared["inputs"][1] = shared["inputs"][1], shared["inputs"][0]
    shared["inputs"][0]["shape"][1] = changed.pop("columns", shared["inputs"][0]["shape"][1])
    shared.update(changed)
    path.write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=message):
        load_bundle(folder)
