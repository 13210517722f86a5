"""No option of `python -m export` is taken where nothing uses it: it is refused before anything is done."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from export.__main__ import main
from export.cli.options import COMMANDS
from export.cli.parser import Option
from export.knobs import UsedBy

VALUES = ("1", "0.5", "1,2", "anything")
NEEDED = {"--schema": "criteo", "--preset": "none", "format": "movielens", "--budget-bytes": "1"}


def used() -> Iterator[tuple[str, Option, UsedBy]]:
    """Every option of a command that needs another choice, where the command has that choice."""
    for command, about in COMMANDS.items():
        offered = {option.name: option for options in about.groups.values() for option in options}
        for option in offered.values():
            if option.used_by is not None and {"preset", *option.used_by.choices} & offered.keys():
                yield command, option, option.used_by


def value_for(option: Option, *, other_than: tuple[str, ...] = ()) -> str:
    """A value that the option takes."""
    if isinstance(option.kind, tuple):
        return next(name for name in option.kind if name not in other_than)
    for value in VALUES:
        try:
            option.kind(value)
        except Exception:
            continue
        return value
    raise AssertionError(option.flag)


def refusal(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """What the command says, which is one line, and ends with 1."""
    code = main([*map(str, arguments)])
    said = capsys.readouterr().err
    assert (code, said.count("\n")) == (1, 1), said
    return said


@pytest.mark.parametrize(
    ("command", "option", "used_by"), [pytest.param(*one, id=f"{one[0]} {one[1].flag}") for one in used()]
)
def test_an_option_that_nothing_chosen_uses_is_refused_before_a_file_is_read(
    command: str, option: Option, used_by: UsedBy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    offered = {one.name: one for options in COMMANDS[command].groups.values() for one in options}
    arguments = {option.flag: value_for(option)}
    for choice in used_by.choices:
        if used_by.values and choice in offered:
            arguments[offered[choice].flag] = value_for(offered[choice], other_than=used_by.values)
    if "may_prune" in used_by.choices:
        arguments["--preset"] = "none"
    for one in offered.values():
        if one.required or one.flag in ("--data", "--out", "--schema"):
            arguments.setdefault(one.flag, NEEDED.get(one.flag, str(tmp_path / "none")))
    said = refusal(capsys, command, *(word for pair in arguments.items() for word in pair))
    assert said.startswith(f"export: '{option.name}' must be left out"), said


def test_no_help_tells_of_a_need_that_nothing_checks() -> None:
    for command, about in COMMANDS.items():
        for options in about.groups.values():
            for option in options:
                needs = re.match(r"(of|with) (?!the )[\w -]+: ", option.about)
                assert needs is None or option.used_by is not None, (command, option.flag)


LOG = ("--data", "no.tsv", "--schema", "criteo", "--out", "no")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("run", *LOG, "--checkpoint", "no.pt", "--model", "lr"), "model"),
        (("run", *LOG, "--checkpoint", "no.pt", "--epochs", 3), "epochs"),
        (("train", "--work", "no", "--checkpoint", "no.pt", "--warmup-steps", 3), "warmup_steps"),
        (("train", "--work", "no", "--distill-alpha", 0.3), "distill_alpha"),
        (("run", *LOG, "--preset", "none", "--zero-rows", "forget"), "zero_rows"),
        (("run", *LOG, "--pooling", "sum"), "pooling"),
        (("run", *LOG, "--schedule", "constant", "--optimizer", "ftrl", "--embedding-optimizer", "ftrl"),
         "schedule"),
        (("run", *LOG, "--optimizer", "ftrl", "--embedding-optimizer", "ftrl", "--decay-rate", 0.5),
         "decay_rate"),
        (("compare", *LOG, "--models", "lr", "--pooling", "sum"), "pooling"),
        (("compare", *LOG, "--models", "lr", "--dim", 4), "dim"),
        (("compare", *LOG, "--models", "lr,fm", "--again", "dnn"), "again"),
        (("compare", *LOG, "--prune-epochs", 1), "prune_epochs"),
        (("compare", *LOG, "--format", "markdown"), "--format"),
        (("compare", "--show", "no", "--seeds", 2), "--seeds"),
        (("models", "lr", "--abilities"), "--abilities"),
        (("tune", "--work", "no", "--out", "no", "--min-count", 3), "min_count"),
        (("compress", "--work", "no", "--out", "no", "--budget-bytes", 1, "--students", "none",
          "--distill-alpha", 0.3), "distill_alpha"),
        (("infer-schema", "no.tsv", "--overwrite"), "overwrite"),
        (("infer-schema", "log.parquet", "--header", "no"), "header"),
        (("replay", "--auctions", "rows.tsv", "--price", "paid"), "price"),
    ],
)  # fmt: skip
def test_what_a_command_does_not_use_is_refused(
    arguments: tuple[object, ...], named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    pl.DataFrame({"click": [0, 1]}).write_parquet("log.parquet")
    Path("rows.tsv").write_text("1\t20\t0.5\n0\t10\t0.25\n", encoding="utf-8")
    said = refusal(capsys, *arguments)
    assert f"'{named}' must " in said, said
    assert not Path("no").exists()
