"""The comparison of INT8 writers runs to its end, trains nothing twice, and counts what it says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from benchmarks.int8_writers import MODELS, WRITERS, changed_rows, main
from models import MODELS as ALL_MODELS


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


@pytest.mark.parametrize(("operator", "changed"), [("Identity", 0), ("ReduceMean", 256)])
def test_rows_that_change_with_their_batch_are_counted(operator: str, changed: int) -> None:
    nodes = [
        helper.make_node("Cast", ["ids"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node(operator, ["numbers"], ["taken"]),
        helper.make_node("Add", ["numbers", "taken"], ["sum"]),
        helper.make_node("ReduceSum", ["sum", "axis"], ["logits"], keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "rows",
        [helper.make_tensor_value_info("ids", TensorProto.INT32, ["batch", 2])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch"])],
        [numpy_helper.from_array(np.array([1], np.int64), "axis")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    ids = np.random.default_rng(0).integers(0, 1000, (1024, 2)).astype(np.int32)
    assert changed_rows(model.SerializeToString(), ids) == changed
