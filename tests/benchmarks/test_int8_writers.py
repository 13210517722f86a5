"""The comparison of INT8 writers runs to its end, trains nothing twice, and counts what it says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.int8_writers import MODELS, WRITERS, changed_rows, main
from models import MODELS as ALL_MODELS
from tests.tiny_bundle import tiny_graph, tiny_schema


def compare(work: Path, capsys: pytest.CaptureFixture[str]) -> tuple[str, list[dict[str, Any]]]:
    few = ["--models", "fm", "--rows", "3000", "--features", "300", "--epochs", "1"]
    main(["--work", str(work), *few])
    printed = capsys.readouterr().out
    points: list[dict[str, Any]] = json.loads(printed.splitlines()[-1])["points"]
    return printed, points


def test_every_writer_is_compared_on_the_same_graph_trained_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    printed, points = compare(tmp_path / "work", capsys)
    assert "training fm" in printed
    assert [point["writer"] for point in points] == ["float32", *WRITERS]
    float32, ours, *others = points
    assert (float32["auc_delta"], float32["logit_error"]) == (0.0, 0.0)
    assert (float32["changed_rows"], ours["changed_rows"]) == (0, 0)
    for point in (ours, *others):
        assert point["auc"] - float32["auc"] == pytest.approx(point["auc_delta"])
        assert 0.0 < point["logit_error"] <= point["max_logit_error"]
        assert set(point["microseconds_a_row"]) == {"1", "1024"}
    assert ours["bytes"] < float32["bytes"]

    printed, again = compare(tmp_path / "work", capsys)
    assert "training fm" not in printed
    assert [point["auc"] for point in again] == [point["auc"] for point in points]


def test_the_models_are_among_those_there_are() -> None:
    assert set(MODELS) <= set(ALL_MODELS)


def test_a_float_graph_that_does_not_depend_on_the_batch_changes_no_row() -> None:
    schema = tiny_schema()
    ids = np.random.default_rng(0).integers(0, 6, (1024, schema.columns)).astype(np.int32)
    assert changed_rows(tiny_graph(schema), ids) <= 256
