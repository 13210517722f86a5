"""The check of INT8 across the zoo trains nothing twice, and names what misses the bound with its share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import benchmarks.int8_parity as parity


def check(work: Path, capsys: pytest.CaptureFixture[str], *models: str) -> tuple[str, dict[str, Any]]:
    parity.main(["--work", str(work), "--rows", "3000", "--models", *models])
    printed = capsys.readouterr().out
    found: dict[str, Any] = json.loads(printed.splitlines()[-1])
    return printed, found


def test_each_model_is_held_to_the_bound_and_a_miss_is_taken_apart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    printed, found = check(tmp_path / "work", capsys, "fm", "gbdt_lr")
    assert "training fm" in printed
    assert "gbdt_lr has nothing to quantize" in printed
    (point,) = found["points"]
    assert (point["model"], point["of_tables"], point["of_layers"]) == ("fm", None, None)
    assert abs(point["delta"]) <= found["bound"]
    assert point["bytes"][1] < point["bytes"][0]
    assert 0.0 < point["error"] < 0.1
    assert "1 of 1 models hold the bound" in printed

    monkeypatch.setattr(parity, "BOUND", -1.0)
    printed, found = check(tmp_path / "work", capsys, "fm")
    assert "training fm" not in printed
    (missed,) = found["points"]
    assert missed["delta"] == point["delta"]
    assert missed["of_tables"] == pytest.approx(missed["delta"]), "all that is INT8 of an FM is its tables"
    assert missed["of_layers"] == 0.0
    assert "fm misses it" in printed
