"""The benchmark of distillation pairs each taught student with itself alone, and goes on where it stopped."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.distillation import Student, _over_the_batch, main
from export.data.synthetic import SyntheticConfig
from export.data.synthetic_file import write_synthetic_log
from export.errors import ExportError
from export.train.losses import bce

CONFIG = SyntheticConfig(
    rows=1600, seed=5, features=100, numeric_fields=0, categorical_fields=2, candidate_fields=1, ctr=0.3
)


def test_each_student_is_judged_beside_itself_alone_and_nothing_is_done_twice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    schema = write_synthetic_log(CONFIG, tmp_path / "log.parquet", report=str)
    capsys.readouterr()
    options = ["--data", str(tmp_path / "log.parquet"), "--schema", str(schema), "--teacher", "lr"]
    options += ["--work", str(tmp_path / "work"), "--students", "lr", "--alphas", "0", "0.5"]

    def figures(*more: str) -> dict[str, Any]:
        main([*options, *more])
        found: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
        return found

    first = figures("--seeds", "1")
    ways = [cell["way"] for cell in first["cells"]]
    assert ways == ["the teacher", "alone", "alpha 0, T 1", "alpha 0.5, T 1"]
    alone, nothing, taught = first["cells"][1:]
    assert (nothing["auc"], nothing["logloss"]) == (alone["auc"], alone["logloss"])
    assert taught["logloss"] != alone["logloss"]
    changes = {one["way"]: one for one in first["changes"]}
    assert changes["alpha 0, T 1"]["auc"] == {"delta": 0.0, "low": 0.0, "high": 0.0}
    change = changes["alpha 0.5, T 1"]["logloss"]
    assert change["delta"] == pytest.approx(taught["logloss"] - alone["logloss"], abs=1e-6)
    assert change["low"] <= change["delta"] <= change["high"]
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "work").rglob("*.json")}
    second = figures("--seeds", "2", "--crossed")
    assert all(
        path.stat().st_mtime_ns == when for path, when in before.items() if path.parent.name == "cells"
    )
    kept = [cell for cell in second["cells"] if cell["seed"] == 0 and cell["way"] in ways[1:]]
    assert kept == first["cells"][1:]
    assert {cell["seed"] for cell in second["cells"]} == {0, 1}
    said = np.load(tmp_path / "work" / "teachers" / "0.crossed.npy")
    assert len(said) == second["rows"]["train"]
    assert np.isfinite(said).all()
    with pytest.raises(ExportError, match="'work' must be a new folder"):
        main([*options, "--split", "0.6,0.2,0.1,0.1"])


def test_a_models_name_tells_its_widths_and_dimension() -> None:
    assert Student.parse("dnn:16,8@4").hyperparameters == {"hidden_units": [16, 8], "dim": 4}
    assert Student.parse("lr") == Student("lr", "lr", {})
    with pytest.raises(argparse.ArgumentTypeError, match="NAME:WIDTHS@DIM"):
        Student.parse("dnn:a")


def test_the_published_loss_hardly_knows_the_teacher() -> None:
    """Of a batch of 2,048 rows its second part is nothing beside the first."""
    draw = torch.Generator().manual_seed(0)
    logits, taught = (torch.randn(2048, generator=draw) for _ in range(2))
    labels = (torch.rand(2048, generator=draw) < 0.3).float()
    hard = bce(logits, labels)
    found = _over_the_batch(bce, logits, labels, taught, alpha=0.5, temperature=2.0)
    assert float(found - 0.5 * hard) == pytest.approx(0.0, abs=1e-4)
