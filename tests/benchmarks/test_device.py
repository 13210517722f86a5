"""The benchmark of devices also runs on a machine without a GPU, and says that there is none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.command import ended
from benchmarks.device import main
from loadtest.traffic.forged import copy_with
from service.bundle.store import load_bundle
from service.scoring.session import NoCuda, Session
from tests.tiny_bundle import write_tiny_bundle

ROWS = [8, 50, 65]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny bundle."""
    return write_tiny_bundle(tmp_path_factory.mktemp("bundle") / "alpha", "alpha")


def has_cuda(folder: Path) -> bool:
    bundle = load_bundle(folder)
    try:
        Session(bundle.graphs["float32"], bundle.manifest.graphs["float32"], "cuda-required")
    except NoCuda:
        return False
    return True


def run(capsys: pytest.CaptureFixture[str], folder: Path, *options: str) -> tuple[list[str], dict[str, Any]]:
    """The lines and the result of a run with few and short timings."""
    few = ["--candidates", "20", "--rounds", "2", "--milliseconds", "1", "--rows", *map(str, ROWS)]
    assert main(["--arm", str(folder), *few, *options]) == 0
    lines = capsys.readouterr().out.splitlines()
    return lines[:-1], json.loads(lines[-1])


def test_every_graph_is_measured_fed_and_bound_and_gives_the_same_logits(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines, result = run(capsys, folder, "--device", "cpu")
    assert result["no_cuda"] == "it was not asked for (--device cpu)"
    assert (result["bundle"], result["candidates_a_request"]) == (
        load_bundle(folder).manifest.id,
        20,
    )
    points = result["points"]
    assert [(p["rows"], p["graph"], p["inputs"]) for p in points] == [
        (rows, graph, inputs) for rows in ROWS for inputs in ("fed", "bound") for graph in ("plain", "shared")
    ]
    for point in points:
        assert (point["variant"], point["device"]) == ("float32", "cpu")
        assert point["max_abs_difference"] < 1e-6
        assert point["rows_per_second"] == pytest.approx(1e6 / point["microseconds_a_row"], rel=0.01)
        assert point["times_cpu"] == 1.0 or point["inputs"] == "bound"
    table = lines[-1 - len(points) :]
    assert table[0].split()[:4] == ["variant", "graph", "rows", "device"]
    assert {len(line) for line in table} == {len(table[0])}


def test_without_a_gpu_it_says_so_and_measures_the_cpu(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines, result = run(capsys, folder)
    if has_cuda(folder):
        assert {point["device"] for point in result["points"]} == {"cpu", "cuda"}
        return
    assert {point["device"] for point in result["points"]} == {"cpu"}
    assert f"no CUDA here: {result['no_cuda']}" in lines
    assert ended(main, ["--arm", str(folder), "--device", "cuda-required"]) == 2
    assert result["no_cuda"] in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--variants", "int8"], "'--variants' must be one of float32 (got 'int8')"),
    ],
)
def test_an_error_is_one_line(
    options: list[str], message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ended(main, ["--device", "cpu", "--arm", str(folder), *options]) == 2
    captured = capsys.readouterr()
    assert (captured.out, captured.err.count("\n")) == ("", 1)
    assert message in captured.err


def test_rows_that_cannot_be_read_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = b'{"context": 3}\n'
    folder = copy_with(
        write_tiny_bundle(tmp_path / "tiny"), tmp_path / "other", {"report/requests.jsonl": rows}
    )
    assert ended(main, ["--device", "cpu", "--arm", str(folder)]) == 2
    assert "requests.jsonl' must be a row a line, as JSON" in capsys.readouterr().err


def test_a_batch_has_rows(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--arm", str(folder), "--rows", "0"])
    assert stopped.value.code == 2
    assert "must be a whole number from 1 (got '0')" in capsys.readouterr().err
