"""What the README shows works: its commands parse, its request decodes, its schema file loads."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import msgspec
import pytest

from export.cli.options import build_parser as export_parser
from export.data.log_schema import load_log_schema
from models import MODELS
from service.__main__ import build_parser as service_parser
from service.features.load import build_parser as load_parser
from service.settings import Settings
from service.wire import JSON, decode_request

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^( *)```(\w+)\n(.*?)^\1```$", README, flags=re.MULTILINE | re.DOTALL)


def blocks(language: str) -> list[str]:
    """The code blocks in a language."""
    return [text for _, name, text in BLOCKS if name == language]


def commands(start: str) -> list[list[str]]:
    """The shell commands that start so, comments taken off, split into words."""
    lines = "".join(blocks("sh")).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.startswith(start)]


def test_the_export_commands_parse() -> None:
    found = commands("python -m export")
    assert found
    for words in found:
        export_parser().parse_args(words[3:])


def test_the_service_commands_parse() -> None:
    found = commands("python -m service ")
    assert found
    for words in found:
        settings = Settings(**vars(service_parser().parse_args(words[3:])))
        assert settings.arms


def test_the_loading_commands_parse() -> None:
    found = commands("python -m service.load_features ")
    assert found
    for words in found:
        load_parser().parse_args(words[3:])


def test_the_make_targets_exist() -> None:
    makefile = (Path(__file__).parents[1] / "Makefile").read_text(encoding="utf-8")
    found = commands("make")
    assert found
    for words in found:
        assert re.search(rf"^{words[1]}:", makefile, flags=re.MULTILINE), words


def test_the_request_decodes() -> None:
    body = blocks("http")[0].partition("\n\n")[2]
    request = decode_request(body.encode(), JSON)
    assert request.id == "req-1"


def test_the_answer_is_json() -> None:
    assert msgspec.json.decode(blocks("json")[0])["results"][0]["bid"] == 0.015375


def test_the_schema_file_loads(tmp_path: Path) -> None:
    path = tmp_path / "shop.toml"
    path.write_text(blocks("toml")[0], encoding="utf-8")
    assert [field.name for field in load_log_schema(str(path)).fields] == ["page", "ad_id", "clicked_ads"]


@pytest.mark.parametrize("name", MODELS)
def test_the_models_are_named(name: str) -> None:
    assert f"`{name}`" in README
