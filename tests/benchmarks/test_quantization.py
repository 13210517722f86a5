"""The benches of INT8 run to their ends, and what they count is what happens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.dynamic_int8 import Ids, Logits, moves, other_first
from benchmarks.dynamic_int8 import main as dynamic_int8
from benchmarks.qat import FLOAT, STATIC
from benchmarks.qat import main as qat
from export.data.synthetic import SyntheticConfig
from export.data.synthetic_file import write_synthetic_log

CONFIG = SyntheticConfig(
    rows=2500, seed=5, features=300, numeric_fields=1, categorical_fields=5, candidate_fields=2, ctr=0.3
)
IDS = np.arange(4000, dtype=np.int32)[:, None]


def points_of(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    points: list[dict[str, Any]] = json.loads(capsys.readouterr().out.splitlines()[-1])["points"]
    return points


def test_static_int8_and_its_training_are_judged_beside_float32(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "log.parquet"
    schema = write_synthetic_log(CONFIG, log, report=str)
    qat(
        [
            "--data",
            str(log),
            "--schema",
            str(schema),
            "--work",
            str(tmp_path / "w"),
            "--models",
            "lr",
            "--training-epochs",
            "1",
        ]
    )
    float32, static, longer, trained, shipped = points_of(capsys)
    way = "epochs 1, rate 0.0001"
    assert [point["way"] for point in (float32, static, longer, trained, shipped)] == [
        FLOAT,
        STATIC,
        f"float32, {way}",
        f"qat, {way}",
        f"qat, {way}, shipped",
    ]
    assert (float32["largest_difference"], float32["auc_delta"]) == (0.0, 0.0)
    assert 0.0 < static["deviation"] <= static["largest_difference"] < trained["largest_difference"]
    for point in (static, longer, trained):
        assert point["auc"] - float32["auc"] == pytest.approx(point["auc_delta"], abs=1e-9)
    assert shipped["auc"] == (trained if trained["kept"] else static)["auc"]


def test_dynamic_int8_moves_rows_that_static_int8_does_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = ["--rows", "3000", "--features", "300", "--epochs", "1", "--watched", "3", "--companies", "2"]
    dynamic_int8(["--work", str(tmp_path / "work"), "--models", "dnn", *few])
    float32, static, dynamic = points_of(capsys)
    for steady in (float32, static):
        assert (steady["changed_rows"], steady["largest_move"], steady["other_first"]) == (0, 0.0, 0)
    assert dynamic["changed_rows"] == 3
    assert 0.0 < dynamic["median_move"] <= dynamic["largest_move"]
    assert set(dynamic["microseconds_a_row"]) == {"1", "64", "1024"}


def test_a_move_is_between_companies_and_another_first_is_in_company() -> None:
    """Scores that are the row's own, or turn round once many are scored together."""

    def own(rows: Ids) -> Logits:
        return rows[:, 0].astype(np.float32) / 1000

    def turned(rows: Ids) -> Logits:
        return own(rows) + np.float32(own(rows).max()) if len(rows) < 500 else -own(rows)

    steady = moves(own, IDS, 5, 3, 0)
    assert (steady.changed, steady.logits.max(), steady.pctrs.max()) == (0, 0.0, 0.0)
    assert other_first(own, IDS, 0) == 0
    moving = moves(turned, IDS, 5, 3, 0)
    assert moving.changed == 5
    assert 0.0 < moving.logits.max() < 4.0
    assert other_first(turned, IDS, 0) == 50
