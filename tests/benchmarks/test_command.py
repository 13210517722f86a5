"""The command line of benchmarks: numbers, errors of one line, and a last line for machines."""

from __future__ import annotations

import json

import pytest

from benchmarks import __main__ as listing
from benchmarks.command import Command, machine
from loadtest.arguments import positive


def command() -> Command:
    found = Command("some", "Measures something.")
    found.number("--rounds", 7, "timed")
    found.number("--seed", 0, "of the log", least=0)
    found.numbers("--rows", [1, 64], "a call")
    found.add_argument("--epochs", type=positive, default=1.5)
    return found


def test_numbers_have_defaults_and_are_read() -> None:
    assert vars(command().parse_args([])) == {"rounds": 7, "seed": 0, "rows": [1, 64], "epochs": 1.5}
    read = command().parse_args(["--rounds", "3", "--seed", "0", "--rows", "8", "9", "--epochs", "0.25"])
    assert vars(read) == {"rounds": 3, "seed": 0, "rows": [8, 9], "epochs": 0.25}
    assert "timed [7]" in command().format_help()
    assert "a call [1 64]" in command().format_help()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--rounds 0", "argument --rounds: must be a whole number from 1 (got '0')"),
        ("--seed -1", "argument --seed: must be a whole number from 0 (got '-1')"),
        ("--seed x", "argument --seed: must be a whole number from 0 (got 'x')"),
        ("--rows 1 1.5", "argument --rows: must be a whole number from 1 (got '1.5')"),
        ("--epochs 0", "argument --epochs: must be a finite number above 0 (got '0')"),
        ("--epochs inf", "argument --epochs: must be a finite number above 0 (got 'inf')"),
        ("--epochs many", "argument --epochs: must be a number (got 'many')"),
    ],
)
def test_an_error_is_one_line(options: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        command().parse_args(options.split())
    assert stopped.value.code == 2
    expected = f"python -m benchmarks.some: error: {message}; see python -m benchmarks.some --help\n"
    assert capsys.readouterr().err == expected


def test_the_last_line_names_the_benchmark_and_the_machine(capsys: pytest.CaptureFixture[str]) -> None:
    command().print_json(points=[1])
    found = json.loads(capsys.readouterr().out)
    assert found == {"benchmark": "some", "machine": machine(), "points": [1]}
    assert "cores" in found["machine"]
    assert "onnxruntime " in found["machine"]


def test_all_benchmarks_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    listing.main()
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert {"apg", "dynint", "graph", "import_graph", "int8_writers", "peers", "training_step"} <= set(names)
    assert not {"command", "timing", "checkout"} & set(names)
