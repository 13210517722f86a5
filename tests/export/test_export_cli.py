"""`python -m export` as a real process: what it says, to whom, and the exit code."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from export.calibrate import METHODS
from export.compress.recipes import RECIPES
from export.option_values import METHODS as OFFERED_METHODS
from export.options import COMMANDS, build_parser
from export.options import MODELS as OFFERED_MODELS
from export.options import PRESETS as OFFERED_PRESETS
from models import MODELS

ROOT = Path(__file__).parents[2]


def export(*arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **variables}
    command = [sys.executable, "-W", "error", "-m", "export", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)


def refused(done: subprocess.CompletedProcess[str], code: int, *said: str) -> None:
    """One line on stderr with these words, and no traceback."""
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    for words in said:
        assert words in done.stderr


def test_help_names_every_command_and_imports_no_torch() -> None:
    done = export("--help")
    assert done.returncode == 0
    for command in COMMANDS:
        assert command in done.stdout
    code = "import sys, export.__main__; print({'torch', 'polars', 'onnx', 'sklearn'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_of_a_command_has_a_line_of_help(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        build_parser().parse_args([command, "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert max(len(line) for line in text.splitlines()) <= 100
    lines = [line for line in text.splitlines() if line.startswith("  --")]
    assert lines


def test_what_the_help_offers_is_what_there_is() -> None:
    assert set(OFFERED_MODELS) == set(MODELS)
    assert set(OFFERED_PRESETS) == set(RECIPES)
    assert set(OFFERED_METHODS) == set(METHODS)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "COMMAND"),
        (["fly"], "'fly'"),
        (["run", "--data", "x"], "--schema"),
        (["run", "--model", "mystery"], "'mystery'"),
        (["prune", "--work", "w", "--preset", "extreme"], "'extreme'"),
        (["train", "--work", "w", "--epochs", "0"], "a whole number above 0 (got '0')"),
        (["train", "--work", "w", "--epochs", "two"], "a whole number above 0 (got 'two')"),
        (["train", "--work", "w", "--learning-rate", "nan"], "a number above 0 (got 'nan')"),
        (["train", "--work", "w", "--hidden-units", "400,"], "(got '')"),
        (["train", "--work", "w", "--dropout", "1"], "below 1"),
        (["fit-schema", "--split", "0.5,0.5"], "four shares that add up to 1"),
        (["calibrate", "--work", "w", "--sampling-rate", "0"], "above 0 and at most 1"),
        (["calibrate", "--work", "w", "--calibration-methods", "beta"], "'beta'"),
    ],
)
def test_wrong_options_exit_with_2(arguments: list[str], said: str) -> None:
    refused(export(*arguments), 2, said, "--help")


def test_a_log_that_is_not_there(tmp_path: Path) -> None:
    done = export("run", "--data", tmp_path / "no.tsv", "--schema", "criteo", "--out", tmp_path / "out")
    refused(done, 1, "no.tsv")
    assert not (tmp_path / "out").exists()


def test_a_schema_that_is_not_there(tmp_path: Path) -> None:
    done = export("fit-schema", "--data", "x.csv", "--schema", "criterio", "--work", tmp_path / "w")
    refused(done, 1, "'criterio'", "criteo, avazu")


def test_a_schema_file_with_a_mistake(tmp_path: Path) -> None:
    schema = tmp_path / "log.toml"
    schema.write_text(
        'name = "x"\nformat = "csv"\n[label]\ncolumn = "click"\n[[field]]\nname = "a"\nkind = "colour"\n'
    )
    done = export("fit-schema", "--data", "x.csv", "--schema", schema, "--work", tmp_path / "w")
    refused(done, 1, "log.toml", "'kind'", "'colour'")


def test_a_malformed_row_names_file_line_and_column(tmp_path: Path) -> None:
    log = tmp_path / "day1.tsv"
    row = "\t".join(["0", *["3"] * 13, *["a"] * 26])
    bad = "\t".join(["0", "three", *["3"] * 12, *["a"] * 26])
    log.write_text(f"{row}\n{row}\n{bad}\n{row}\n")
    done = export("fit-schema", "--data", log, "--schema", "criteo", "--work", tmp_path / "w")
    refused(done, 1, "day1.tsv", "line 3", "'I1'", "'three'")


def test_a_missing_stage_is_named(tmp_path: Path) -> None:
    refused(export("train", "--work", tmp_path / "work"), 1, "run `python -m export fit-schema --work")
    done = export("package", "--work", tmp_path / "work", "--out", tmp_path / "out")
    refused(done, 1, "run `python -m export fit-schema --work")


def test_a_folder_with_other_things(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    log = tmp_path / "log.csv"
    log.write_text("")
    done = export("run", "--data", log, "--schema", "criteo", "--out", tmp_path, "--work", tmp_path / "w")
    refused(done, 1, "'out' must be a new folder")
    done = export("fit-schema", "--data", log, "--schema", "criteo", "--work", tmp_path)
    refused(done, 1, "'work' must be a new, an empty")
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_checkpoint_that_is_none(tmp_path: Path) -> None:
    log, schema = synthetic(tmp_path)
    assert export("fit-schema", "--data", log, "--schema", schema, "--work", tmp_path / "w").returncode == 0
    checkpoint = tmp_path / "model.pt"
    refused(
        export("train", "--work", tmp_path / "w", "--checkpoint", checkpoint), 1, "model.pt", "no such file"
    )
    checkpoint.write_text("not a checkpoint")
    refused(
        export("train", "--work", tmp_path / "w", "--checkpoint", checkpoint), 1, "model.pt", "checkpoint"
    )
    done = export("train", "--work", tmp_path / "w", "--device", "cuda:99", "--epochs", 1, "--model", "lr")
    refused(done, 1, "cuda:99")


def test_a_synthetic_log_that_cannot_be(tmp_path: Path) -> None:
    refused(export("synthesize", "--out", tmp_path / "log.txt"), 1, "log.txt", ".parquet")
    refused(export("synthesize", "--out", tmp_path / "log.csv", "--features", 3), 1, "'features'")
    assert list(tmp_path.iterdir()) == []


def test_from_nothing_to_a_bundle_by_the_command_line(tmp_path: Path) -> None:
    log, schema = synthetic(tmp_path)
    small = ("--epochs", 1, "--hidden-units", "16", "--dim", 4, "--threads", 1)
    done = export(
        "run", "--data", log, "--schema", schema, "--out", tmp_path / "shop", *small, "--preset", "none"
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert f"python -m service --arm control={tmp_path / 'shop'}" in done.stdout
    assert (tmp_path / "shop" / "manifest.json").is_file()
    assert (tmp_path / ".work" / "shop" / "dense.pt").is_file()
    again = export("package", "--out", tmp_path / "shop", "--name", "shop-2")
    assert again.returncode == 0, again.stderr
    assert "shop-2@" in again.stdout


def synthetic(folder: Path) -> tuple[Path, Path]:
    """A small log made by the command line itself."""
    log = folder / "clicks.csv"
    done = export(
        "synthesize", "--out", log, "--rows", 3000, "--rows-per-day", 500, "--features", 300, "--ctr", 0.3
    )
    assert done.returncode == 0, done.stderr
    return log, folder / "clicks.toml"
