"""`python -m service.explain_bid`: what a service has answered is recomputed to the last digit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from service.calibration.memory import LiveState
from service.explain_bid import DIFFERS, FAILED, main
from service.wire import JSON, MSGPACK, Codec
from tests.running import RunningApp
from tests.service.http.test_live_calibration import decide
from tests.tiny_bundle import tiny_rows

RunApp = Callable[..., RunningApp]
STATE = LiveState(9, 0.25, 0.9, 321.0, 0.8, 1.01)
CORRECTED = ["--intercept", "0.25", "--slope", "0.9"]
ADS = [
    {"id": "a", "features": {"ad": "a1"}, "value_per_click": 1.25},
    {"id": "b", "features": {"ad": "a2"}, "value_per_click": 400.0},
    {"id": "c", "features": {"ad": "a3"}, "value_per_click": 2.5, "bid_floor": 100.0},
    {"features": {"ad": "new"}},
]
COLUMNS = {"id": ["a"] * 40, "features": {"ad": ["a1", "a2"] * 20}, "value_per_click": [0.7] * 40}
BIDS = {"bid_multiplier": 1.1, "bid_cap": 2.0, "bid_floor": 0.001, "bid_win_price": 0.5}
OPTIONS = [part for name, value in BIDS.items() for part in ("--" + name.replace("_", "-"), str(value))]


@pytest.fixture
def keys(tmp_path: Path) -> str:
    (file := tmp_path / "keys").write_text(f"0 {'5e' * 16}\n", encoding="ascii")
    return str(file)


def files_of(app: RunningApp, folder: Path, candidates: Any, codec: Codec = JSON) -> list[str]:
    """Ask a service; the options with the files of the request and its answer."""
    request = {"context": tiny_rows(1)[0]["context"], "candidates": candidates}
    suffix = "json" if codec is JSON else "msgpack"
    names = [folder / f"{name}.{suffix}" for name in ("request", "answer")]
    names[0].write_bytes(codec.encode(request))
    answer = app.post(names[0].read_bytes(), {"content-type": codec.media_type.decode()})
    assert answer.status_code == 200
    names[1].write_bytes(answer.content)
    bundle = app.app.arms[0].predictor.folder
    return ["--bundle", str(bundle), "--request", str(names[0]), "--answer", str(names[1])]


@pytest.mark.parametrize("codec", [JSON, MSGPACK], ids=["json", "msgpack"])
@pytest.mark.parametrize("candidates", [ADS, COLUMNS], ids=["rows", "columns"])
def test_an_answer_is_recomputed_to_the_last_digit(
    run_app: RunApp,
    keys: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    candidates: Any,
    codec: Codec,
) -> None:
    app = run_app(feedback_keys=keys, live_calibration="on", **BIDS)
    files = files_of(app, tmp_path, candidates, codec)
    assert main([*files, *OPTIONS]) == 0
    assert main([*files, *OPTIONS, *CORRECTED]) == DIFFERS
    decide(app, STATE)
    files = files_of(app, tmp_path, candidates, codec)
    capsys.readouterr()
    assert main([*files, *OPTIONS, *CORRECTED]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "The answer agrees to the last digit."
    assert lines[1] == "live calibration (given): log-odds become 0.25 + 0.9 * log-odds"
    if candidates is ADS and codec is JSON:
        answer = json.loads(Path(files[-1]).read_bytes())
        table = [line.split() for line in lines[5:10]]
        assert table[0][:5] == ["row", "id", "logit", "calibrated", "pCTR"]
        for cells, result in zip(table[1:], answer["results"], strict=True):
            assert cells[5] == str(result["pctr"])
            assert cells[11] == ("-" if result["bid"] is None else str(result["bid"]))
        assert table[2][9] == "2.0"  # the cap
        assert (table[3][9] != "-", table[3][11]) == (True, "-")  # its own floor


def test_what_an_answer_has_otherwise_is_named(
    run_app: RunApp, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = files_of(run_app(), tmp_path, ADS)
    answer = json.loads(Path(files[-1]).read_bytes())
    answer["results"][1]["bid"] = 0.5
    answer["results"][2]["pctr"] += 1e-15
    answer["bundle"] = "other@1"
    Path(files[-1]).write_text(json.dumps(answer))
    assert main(files) == DIFFERS
    bundle, bid, pctr = capsys.readouterr().out.splitlines()[-3:]
    assert bundle.startswith("The answer is of bundle other@1, and not of ")
    assert bid.startswith("Row 1: bid is 0.5 in the answer, and ")
    assert pctr.startswith("Row 2: pctr is ")
    del answer["results"][3]
    Path(files[-1]).write_text(json.dumps(answer))
    assert main(files) == DIFFERS
    assert "The answer has 3 candidates, and the request 4." in capsys.readouterr().out


def test_what_cannot_be_recomputed_is_an_error_in_one_line(
    run_app: RunApp, keys: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    app = run_app(feedback_keys=keys, live_calibration="on")
    decide(app, STATE)
    files = files_of(app, tmp_path, ADS)
    request = ["--bundle", files[1], "--request", files[3]]
    (empty := tmp_path / "empty").write_bytes(b"{}")
    (killed := tmp_path / "killed").write_text(
        '{"id": null, "arm": "a", "bundle": "b", "quality": "no-bid", "results": []}'
    )
    for options, message in (
        (files, "must be those of revision 9, which the answer names (got none)"),
        ([*files, "--slope", "0"], "must be finite numbers, and the slope above 0 (got 0.0 and 0.0)"),
        ([*files, "--slope", "1", "--control-socket", "x"], "'--control-socket' must be left out"),
        ([*files, "--control-socket", str(tmp_path / "no")], "there is no socket at"),
        ([*request, "--answer", str(empty)], "'--answer' must be an answer of /predict with status 200"),
        ([*request, "--answer", str(killed)], "must be one that a model scored (got quality no-bid)"),
        ([*request[:3], str(tmp_path / "no")], "'--request' must be a file that can be read"),
        ([*request[:3], str(empty)], "candidates"),
        (["--bundle", str(tmp_path / "no"), *request[2:]], "manifest.json"),
        ([*request, "--bid-cap", "0.1", "--bid-floor", "0.2"], "bid policy: 'floor' must be at most"),
    ):
        assert main(options) == FAILED, options
        said = capsys.readouterr()
        assert said.out == ""
        assert said.err.startswith("python -m service.explain_bid: error: ")
        assert said.err.count("\n") == 1
        assert message in said.err
    with pytest.raises(SystemExit, match="2"):
        main([*request, "--bid-cap", "much"])
    assert "'--bid-cap' must be a valid number" in capsys.readouterr().err
