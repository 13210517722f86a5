"""Whatever is wrong with what a person gives a command that measures: one clear line, and exit status 2."""

from __future__ import annotations

import argparse
import ast
import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.command import CORRECTABLE
from loadtest.arguments import PathTo, ended
from tests.tiny_bundle import write_tiny_bundle

ROOT = Path(__file__).parents[2]
PARTS = (
    "benchmarks/checkout.py",
    "benchmarks/replays/clock.py",
    "loadtest/rivals/servers/",
    "benchmarks/__main__.py",
)
"""Programs that commands start, and the list of the benchmarks, which takes no arguments."""
FREE_TEXT = {"--schema", "--name", "--cells", "--table", "--beside", "--conditions", "--path", "--variants"}
"""What a type cannot know."""
NOT_NUMBERS, NOT_NAMES = ("-1", "0.5.0", "many"), ("no-such-name",)


def commands() -> Iterator[str]:
    """The modules that `python -m` runs."""
    for room in ("benchmarks", "loadtest"):
        for file in sorted((ROOT / room).rglob("*.py")):
            name = str(file.relative_to(ROOT))
            if '__name__ == "__main__"' in file.read_text(encoding="utf-8") and not name.startswith(PARTS):
                yield name.removesuffix(".py").replace("/", ".")


COMMANDS = tuple(commands())


class Parsed(Exception):
    """The arguments were taken."""


def parser_of(module: Any, monkeypatch: pytest.MonkeyPatch) -> argparse.ArgumentParser:
    """The parser that a command makes."""
    found: list[argparse.ArgumentParser] = []

    def stop(parser: argparse.ArgumentParser, *_: object) -> None:
        found.append(parser)
        raise Parsed

    with monkeypatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", stop)
        with pytest.raises(Parsed):
            module.main([])
    return found[0]


def wrong_values(action: argparse.Action, folder: Path) -> list[str]:
    """Values that the option must refuse."""
    if isinstance(action.type, PathTo):
        file, missing = folder / "file", folder / "missing"
        return [str(one) for one in (file / "in-it", file, folder, missing) if not action.type.holds(one)]
    if action.choices is not None:
        return [*NOT_NAMES]
    if action.type is None or action.option_strings[-1:] == ["--conditions"]:
        return []
    try:
        is_number = isinstance(action.type("1"), int | float | tuple)  # type: ignore[operator]
    except argparse.ArgumentTypeError:
        is_number = False
    return [*NOT_NUMBERS] if is_number else [*NOT_NAMES]


def refused(module: Any, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What the command says, which is one line, and ends with 2."""
    capsys.readouterr()
    try:
        code: Any = ended(module.main, arguments, correctable=CORRECTABLE)
    except SystemExit as stopped:
        code = stopped.code
    said = capsys.readouterr().err
    assert code == 2, (arguments, said)
    assert "Traceback" not in said
    *progress, last = said.strip().splitlines()
    assert ": error: " in last, said
    assert not any(": error: " in line for line in progress), said
    return last


def test_every_command_ends_by_the_helper() -> None:
    for command in COMMANDS:
        source = (ROOT / f"{command.replace('.', '/')}.py").read_text(encoding="utf-8")
        last = ast.unparse(ast.parse(source).body[-1])
        assert "sys.exit(ended(main" in last, command


@pytest.mark.parametrize("command", COMMANDS)
def test_a_wrong_argument_is_one_line(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = importlib.import_module(command)
    (tmp_path / "file").write_text("none", encoding="utf-8")
    parser = parser_of(module, monkeypatch)
    needed = _needed(parser, tmp_path)
    for action in parser._actions:
        if action.help == argparse.SUPPRESS or action.nargs == 0:
            continue
        name = action.option_strings[-1] if action.option_strings else action.dest
        assert action.type not in (Path, int, float) or action.choices, f"{name} takes what it cannot use"
        assert action.type or action.choices or name in FREE_TEXT, f"{name} takes any text"
        for wrong in wrong_values(action, tmp_path):
            given = {**needed, name: f"{name}={wrong}" if name.startswith("--") else wrong}
            said = refused(module, [*given.values()], capsys)
            assert name in said or name.removeprefix("--") in said, said


def _needed(parser: argparse.ArgumentParser, folder: Path) -> dict[str, str]:
    """Arguments that are right, as far as parsing goes, for what must be given; and a bundle for the rest."""
    bundle = write_tiny_bundle(folder / "bundle")
    right = {"--bundle": str(bundle), "--arm": str(bundle), "--schema": "criteo", "url": "http://127.0.0.1:1"}
    found = {}
    for group in parser._mutually_exclusive_groups:
        group._group_actions[0].required = group.required
    for action in parser._actions:
        name = action.option_strings[-1] if action.option_strings else action.dest
        if action.required or name in right:
            value = right.get(name)
            if value is None and isinstance(action.type, PathTo):
                places = (folder / "file", folder, folder / "new")
                value = next(str(one) for one in places if action.type.holds(one))
            elif value is None:
                value = next(iter(map(str, action.choices or ["1"])))
            found[name] = f"{name}={value}" if name.startswith("--") else value
    return found


LOGS = {
    "papers.__main__": ["deeplight", "--out", "out"],
    "distillation": ["--work", "out"],
    "qat": ["--work", "out"],
    "warm_start": ["--work", "out"],
    "int8_parity": ["--work", "out"],
    "budgets.__main__": ["--out", "out"],
    "peers.__main__": ["--out", "out"],
    "replays.__main__": ["--out", "out", "--log", "own"],
}


@pytest.mark.parametrize("name", LOGS)
@pytest.mark.parametrize(
    ("data", "schema", "said"),
    [
        ("log.csv", "criteo", "log.csv"),
        ("log.csv", "no-such-schema", "no-such-schema"),
        ("log.csv", "wrong.toml", "wrong.toml"),
        ("log.csv", "empty", "empty"),
        ("empty", "criteo", "empty"),
    ],
)
def test_a_log_that_is_none_is_one_line(
    name: str, data: str, schema: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("log.csv").write_text("a,b\n1,2\n", encoding="utf-8")
    Path("wrong.toml").write_text('name = "x"\nformat = "colour"\n', encoding="utf-8")
    module = importlib.import_module(f"benchmarks.{name}")
    line = refused(module, [*LOGS[name], "--data", data, "--schema", schema], capsys)
    assert said in line or "'schema' must describe a log in Parquet" in line


def test_a_bundle_that_is_broken_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = write_tiny_bundle(tmp_path / "bundle")
    manifest = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
    (bundle / "manifest.json").write_text(json.dumps({**manifest, "graphs": 3}), encoding="utf-8")
    for name in ("device", "hostile", "canary"):
        option = "--arm" if name == "device" else "--bundle"
        refused(importlib.import_module(f"benchmarks.{name}"), [option, str(bundle)], capsys)


def test_a_command_without_a_package_of_its_own_says_its_name(tmp_path: Path, capsys: Any) -> None:
    def main(arguments: object) -> int:
        raise FileNotFoundError(2, "No such file or directory", str(tmp_path / "none"))

    assert ended(main) == 2
    assert capsys.readouterr().err == (
        f"python -m {__name__}: error: '{tmp_path / 'none'}': No such file or directory\n"
    )
    assert sys.modules[__name__].__doc__
