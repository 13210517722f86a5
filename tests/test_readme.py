"""What the pages show works: commands parse, requests decode, links resolve, tables match the code."""

from __future__ import annotations

import argparse
import importlib
import re
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path

import msgspec
import pytest

from docs.faults_tables import written as faults_page
from docs.settings_table import settings_table, table_on_page
from export.cli.options import build_parser as export_parser
from export.compare.overrides import check_overrides, read_overrides, settle
from export.compress.recipes import RECIPES
from export.data.log_schema import load_log_schema, parse_log_schema
from export.train.choices import TrainChoice
from models import MODELS
from service.bundle.manifest import Manifest
from service.control.__main__ import build_parser as control_parser
from service.errors import BadConfiguration, ServiceError
from service.explain_bid import build_parser as explain_parser
from service.features.load import build_parser as load_parser
from service.join_examples import build_parser as join_parser
from service.metrics.families import Metrics
from service.process.options import build_parser as service_parser
from service.reading import decode_request
from service.settings import ENV_PREFIX, Settings
from service.wire import JSON
from tests.pages import REPOSITORY, Page, pages

PAGES = pages()
README, TRAINING, SERVING = Page("README.md"), Page("docs/training.md"), Page("docs/serving.md")
OPERATIONS, ARCHITECTURE = Page("docs/operations.md"), Page("docs/architecture.md")
BUNDLE, SECURITY = Page("docs/bundle.md"), Page("docs/security.md")
FAULTS = Page("docs/faults.md")
COMMANDS = [(page.name, words) for page in PAGES for words in page.commands()]

README_LINES, README_WIDTH = 150, 120
# Locust's own options; the others are the locustfile's.
LOCUST_OPTIONS = {"-f", "--headless", "--host", "--users", "--run-time"}
OTHER_PROGRAMS = {
    "cd",
    "cp",
    "docker",
    "export",
    "kill",
    "ln",
    "mkdir",
    "node",
    "redis-server",
    "sleep",
    "source",
}


class Parsed(Exception):
    """The arguments were read without a complaint."""


def python_commands(module: str) -> list[list[str]]:
    """The arguments of each `python -m MODULE`, and of each `torchrun ... -m MODULE`."""
    found = []
    for _, words in COMMANDS:
        program = Path(words[0]).name
        if program in ("python", "torchrun") and "-m" in words:
            at = words.index("-m") + 1
            if words[at] == module:
                found.append([word for word in words[at + 1 :] if word != "&"])
    return found


def test_every_command_is_one_that_a_test_below_checks() -> None:
    for page, words in COMMANDS:
        program = Path(words[0]).name
        if program in ("python", "torchrun") and "-m" in words:
            assert find_spec(words[words.index("-m") + 1]) is not None, (page, words)
        elif program in ("python", "node"):
            assert (REPOSITORY / words[1]).is_file(), (page, words)
        else:
            assert program in {"make", "pip", "curl", "locust", *OTHER_PROGRAMS}, (page, words)


def test_the_export_commands_parse() -> None:
    found = python_commands("export")
    assert found
    for words in found:
        export_parser().parse_args(words)


def test_the_service_commands_parse() -> None:
    found = python_commands("service")
    assert found
    for words in found:
        settings = Settings(**vars(service_parser().parse_args(words)))
        assert settings.arms


def test_the_loading_commands_parse() -> None:
    found = python_commands("service.load_features")
    assert found
    for words in found:
        load_parser().parse_args(words)


def test_the_joining_commands_parse() -> None:
    found = python_commands("service.join_examples")
    assert found
    for words in found:
        join_parser().parse_args(words)


def test_the_commands_that_explain_bids_parse() -> None:
    found = python_commands("service.explain_bid")
    assert found
    for words in found:
        explain_parser().parse_args(words)


def test_the_commands_to_a_running_service_parse() -> None:
    found = python_commands("service.control")
    assert found
    for words in found:
        options = control_parser().parse_args(words)
        assert options.make(options)


@pytest.mark.parametrize("room", ["benchmarks", "loadtest"])
def test_the_commands_that_measure_parse(room: str, monkeypatch: pytest.MonkeyPatch) -> None:
    parse_args = argparse.ArgumentParser.parse_args

    def parse_and_stop(parser: argparse.ArgumentParser, *given: object) -> None:
        parse_args(parser, *given)  # type: ignore[call-overload]
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_and_stop)
    modules = {
        words[words.index("-m") + 1]
        for _, words in COMMANDS
        if "-m" in words and words[words.index("-m") + 1].split(".")[0] == room
    }
    assert modules
    for module in modules:
        is_package = (REPOSITORY / module.replace(".", "/")).is_dir()
        program = importlib.import_module(f"{module}.__main__" if is_package else module)
        for words in python_commands(module):
            monkeypatch.setattr(sys, "argv", [module, *words])
            with pytest.raises(Parsed):
                program.main()


def test_the_options_of_locust_exist() -> None:
    locustfile = (REPOSITORY / "loadtest/locustfile.py").read_text(encoding="utf-8")
    found = [words for _, words in COMMANDS if Path(words[0]).name == "locust"]
    assert found
    for words in found:
        options = {word for word in words if word.startswith("-")} - LOCUST_OPTIONS
        assert all(f'"{option}"' in locustfile for option in options), words


def test_the_make_targets_exist() -> None:
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    found = [words for _, words in COMMANDS if words[0] == "make"]
    assert found
    for words in found:
        assert re.search(rf"^{words[1]}:", makefile, flags=re.MULTILINE), words
        for name in (word.partition("=")[0] for word in words[2:]):
            assert re.search(rf"^{name} \?=", makefile, flags=re.MULTILINE), words


def test_the_extras_exist() -> None:
    project = (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")
    for page in PAGES:
        for names in re.findall(r"'(?:bidlight|\.)\[([\w,-]+)\]'", page.text):
            assert all(re.search(rf"^{name} = \[", project, flags=re.MULTILINE) for name in names.split(","))


def test_the_modules_that_prose_names_exist() -> None:
    for page in PAGES:
        if page.name != "CHANGELOG.md":  # which names what was
            for module in re.findall(r"`python -m ([\w.]+)", page.prose):
                assert find_spec(module) is not None, (page.name, module)


def test_the_request_decodes() -> None:
    body = SERVING.blocks("http")[0].partition("\n\n")[2]
    request = decode_request(body.encode(), JSON)
    assert request.id == "req-1"


def test_the_requests_of_curl_decode() -> None:
    found = [words for _, words in COMMANDS if words[0] == "curl" and "-d" in words]
    assert found
    for words in found:
        body = words[words.index("-d") + 1]
        if not body.startswith("@"):
            assert decode_request(body.encode(), JSON).candidates


@pytest.mark.parametrize("page", [README, SERVING], ids=lambda page: page.name)
def test_the_answer_is_json(page: Page) -> None:
    assert msgspec.json.decode(page.blocks("json")[0])["results"][0]["bid"] == 0.015375


def test_the_schema_file_loads(tmp_path: Path) -> None:
    path = tmp_path / "shop.toml"
    path.write_text(TRAINING.blocks("toml")[0], encoding="utf-8")
    assert [field.name for field in load_log_schema(str(path)).fields] == ["page", "ad_id"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_all_schema_files_load(page: Page) -> None:
    for block in page.blocks("toml"):
        if not tomllib.loads(block).keys() & set(MODELS):
            assert parse_log_schema(block).fields


def test_all_settings_files_are_taken(tmp_path: Path) -> None:
    """Those with a table of a model's name."""
    blocks = [block for page in PAGES for block in page.blocks("toml")]
    found = [block for block in blocks if tomllib.loads(block).keys() & set(MODELS)]
    assert found
    for block in found:
        file = tmp_path / "settings.toml"
        file.write_text(block, encoding="utf-8")
        settings = read_overrides(file, ())
        check_overrides(settings, tuple(settings.own))
        for model in settings.own:
            settle(model, {}, settings, TrainChoice())[1].config(rows=1_000, model=model)


@pytest.mark.parametrize("name", MODELS)
def test_the_models_are_named(name: str) -> None:
    assert f"`{name}`" in Page("docs/models.md").text


def test_the_presets_table_has_their_rates() -> None:
    documented = {row[0].strip("`"): row[1:] for row in TRAINING.rows("presets")}
    assert documented == {
        name: [
            f"{rate:.0%}".replace("%", " %") if rate else ""
            for rate in (recipe.dnn, recipe.field_matrix, recipe.embedding, recipe.neurons)
        ]
        for name, recipe in RECIPES.items()
    }


def test_the_manifest_table_names_every_key() -> None:
    keys = [key for row in BUNDLE.rows("manifest") for key in re.findall(r"`(\w+)`", row[0])]
    assert sorted(keys) == sorted(Manifest.__struct_fields__)


def test_the_tables_of_faults_are_what_was_measured() -> None:
    assert faults_page(FAULTS.text) == FAULTS.text, "run python -m docs.faults_tables"


def test_the_settings_table_is_that_of_the_settings() -> None:
    assert table_on_page(SERVING.text) == settings_table(), "run python -m docs.settings_table"


def test_the_metrics_table_names_every_metric() -> None:
    documented = [row[0].strip("`") for row in OPERATIONS.rows("metrics")]
    assert sorted(documented) == sorted(metric_names())


def test_the_metrics_and_variables_that_pages_name_exist() -> None:
    metrics = set(metric_names())
    variables = {ENV_PREFIX + name.upper() for name in Settings.model_fields} | {"BIDLIGHT_DATA"}
    for page in PAGES:
        for name in re.findall(r"bidlight_\w+", page.text):
            base = re.sub(r"_(bucket|sum|count)$", "", name)
            assert base in metrics or name in ("bidlight_plain", "bidlight_unmetered", "bidlight_asgi"), name
        assert set(re.findall(r"BIDLIGHT_[A-Z_]+", page.text)) - {ENV_PREFIX} <= variables, page.name


def metric_names() -> list[str]:
    """The metrics of the service, as `/metrics` names them."""
    text = Metrics().exposition()[0].decode()
    return re.findall(r"^# HELP (bidlight_\w+) ", text, flags=re.MULTILINE)


def test_the_errors_table_names_every_error() -> None:
    def classes(above: type[ServiceError]) -> list[type[ServiceError]]:
        return [above, *(each for below in above.__subclasses__() for each in classes(below))]

    errors = {(each.status, each.code) for each in classes(ServiceError)}
    errors.remove((BadConfiguration.status, BadConfiguration.code))  # which no client ever sees
    documented = [(int(row[0]), row[1].strip("`")) for row in SERVING.rows("errors")]
    assert len(set(documented)) == len(documented)
    assert set(documented) == errors


def test_the_rooms_that_are_drawn_are_those_that_exist() -> None:
    drawn, parents = set(), [""]
    for line in ARCHITECTURE.blocks("")[0].splitlines():
        name = line.split()[0]
        if name.endswith("/"):
            depth = (len(line) - len(line.lstrip())) // 2
            parents[depth + 1 :] = [f"{parents[depth]}{name}"]
            drawn.add(parents[depth + 1].rstrip("/"))
    rooms = [
        path for path in REPOSITORY.glob("*/") if any(path.rglob("*.py")) and not path.name.startswith(".")
    ]
    inner = [path for room in ("service", "export", "loadtest") for path in (REPOSITORY / room).glob("*/")]
    packages = {path for path in (*rooms, *inner) if path.name not in ("__pycache__", "artifacts", "build")}
    assert {str(path.relative_to(REPOSITORY)) for path in packages} <= drawn
    assert [name for name in drawn if not (REPOSITORY / name).is_dir()] == []


@pytest.mark.parametrize("room", ["service", "export"])
def test_the_layers_that_are_drawn_are_those_of_the_contract(room: str) -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = project["tool"]["importlinter"]["contracts"]
    (layers,) = [each["layers"] for each in contracts if each.get("containers") == [room]]
    commands = {"__main__", "explain_bid", "join_examples", "load_features"}
    expected = [{name.strip() for name in layer.split("|")} - commands for layer in layers]
    (drawn,) = re.findall(rf"^{room}: +(.*)$", ARCHITECTURE.text, flags=re.MULTILINE)
    found = [set(re.findall(r"\w+", layer)) for layer in drawn.split(" > ")]
    assert found == [layer for layer in expected if layer]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_links_resolve(page: Page) -> None:
    for link in page.links:
        if re.match(r"[a-z]+:", link):
            continue
        target, _, anchor = link.partition("#")
        path = (page.folder / target).resolve() if target else REPOSITORY / page.name
        assert path.exists(), f"{page.name} links to {link}"
        if anchor:
            assert anchor in Page(str(path.relative_to(REPOSITORY))).anchors, f"{page.name} links to {link}"


def test_the_tests_that_the_security_page_names_exist() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", SECURITY.text)
    assert len(named) > 20
    for file, test in named:
        source = (REPOSITORY / file).read_text(encoding="utf-8")
        assert re.search(rf"^def {test}\(", source, flags=re.MULTILINE), (file, test)
    assert SECURITY.text.count("tests/") == len(named)  # none is spelled in another way


def test_the_readme_is_short() -> None:
    lines = README.text.splitlines()
    assert len(lines) <= README_LINES
    assert [line for line in lines if len(line) > README_WIDTH] == []
