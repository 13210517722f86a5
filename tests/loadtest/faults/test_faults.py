"""The program around the scenarios: what is wanted, how results are told, and what ends a scenario."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from loadtest.faults import __main__ as program
from loadtest.faults import report
from loadtest.faults.catalogue import SCENARIOS
from loadtest.faults.ground import Ground, Subject
from loadtest.faults.runner import Plan, Result, run
from loadtest.faults.scenario import Figures, Scenario, at_least, at_most, exactly
from loadtest.processes.machine import missing_tools
from loadtest.processes.redis_server import missing_redis
from loadtest.rivals.contenders import CONTENDERS
from tests.running import REPOSITORY
from tests.tiny_bundle import write_tiny_bundle

WANTED = (exactly("lost", 0), at_least("share", 0.9, is_timed=True), at_most("us", 10, is_optional=True))


def scenario_of(figures: Figures | Exception, seconds: float = 10.0) -> Scenario:
    """A scenario that finds these figures, or fails so."""

    def run(_: Ground) -> Figures:
        if isinstance(figures, Exception):
            raise figures
        return figures

    return Scenario("made_up", "nothing", run, WANTED, for_any_server=True, seconds=seconds)


@pytest.mark.parametrize(
    ("figures", "missed"),
    [
        ({"lost": 0, "share": 0.9}, []),
        ({"lost": 0, "share": 1.0, "us": 10.0}, []),
        ({"lost": 1, "share": 0.89, "us": 11.0}, ["lost", "share", "us"]),
        ({"lost": 0}, ["share"]),
        ({"lost": 0, "share": float("nan")}, ["share"]),
        ({}, ["lost", "share"]),
    ],
)
def test_a_figure_outside_its_limits_or_lacking_is_missed(figures: Figures, missed: list[str]) -> None:
    result = run(Plan(Path("absent")), Subject(), scenario_of(figures))
    assert result.missed == missed
    assert report.as_json(result)["missed"] == missed
    assert ("NO" in report.table([result])) is bool(missed)


def test_a_scenario_that_fails_misses_all_and_says_why() -> None:
    result = run(Plan(Path("absent")), Subject(), scenario_of(ConnectionRefusedError("nobody\nlistens")))
    assert result.missed == ["lost", "share"]
    assert "ConnectionRefusedError: nobody listens" in report.of(result)
    assert "did not come to its end" in report.table([result])


def test_a_scenario_that_does_not_end_is_ended() -> None:
    def wait(_: Ground) -> Figures:
        time.sleep(60.0)
        return {}

    scenario = Scenario("made_up", "waits", wait, WANTED, for_any_server=False, seconds=0.2)
    result = run(Plan(Path("absent")), Subject(), scenario)
    assert result.failure.startswith("TookTooLong: it must end within 0.2 s")


def test_the_table_has_every_figure_and_names_a_scenario_once() -> None:
    plan = Plan(Path("absent"))
    results = [
        Result(plan, scenario_of({}), Subject(), {"lost": 0, "share": 0.5, "seen": 1234.0}, 1.0),
        Result(
            plan, scenario_of({}), Subject(CONTENDERS["mosec"], "no batches"), {"lost": 2, "share": 0.95}, 1.0
        ),
    ]
    lines = [line.split() for line in report.table(results).splitlines()]
    assert lines == [
        ["scenario", "server", "figure", "wanted", "found", "ok"],
        ["made_up", "bidlight", "lost", "0", "0", "yes"],
        ["share", ">=", "0.9", "0.5", "NO"],
        ["us", "<=", "10", "-", "yes"],
        ["seen", "-", "1,234"],
        ["made_up", "mosec", "(no", "batches)", "lost", "0", "2", "NO"],
        ["share", ">=", "0.9", "0.95", "yes"],
        ["us", "<=", "10", "-", "yes"],
    ]


def test_every_scenario_says_what_it_does_and_what_is_wanted() -> None:
    for name, scenario in SCENARIOS.items():
        assert scenario.name == name
        assert scenario.about
        assert scenario.wanted
        figures = [each.figure for each in scenario.wanted]
        assert len(set(figures)) == len(figures)
    listing = report.listing(tuple(SCENARIOS.values()))
    assert "redis_restarts_empty: Redis ends, and begins again" in listing
    assert "    answers changed 0" in listing


def test_only_bidlight_gets_its_own_options() -> None:
    bundle, ours = Path("/bundle"), ("--workers", "2")
    assert Subject().arguments(bundle, ours)[-2:] == ["--workers", "2"]
    assert Subject(checkout=Path("/other")).variables["PYTHONPATH"] == "/other"
    mosec = CONTENDERS["mosec"]
    assert Subject(mosec, "no batches").arguments(bundle, ours) == mosec.command("no batches", bundle)


def run_faults(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "loadtest.faults", *options]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120, check=False)


def test_the_list_needs_no_bundle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main(["--list", "--bundle", str(tmp_path / "none"), "--only", "malformed_http"]) == 0
    assert "malformed_http: " in capsys.readouterr().out


@pytest.mark.skipif(bool(missing_tools() or missing_redis()), reason=missing_tools() or missing_redis())
def test_the_program_ends_with_a_line_for_machines(tmp_path: Path) -> None:
    bundle, out = write_tiny_bundle(tmp_path / "tiny"), tmp_path / "out.jsonl"
    only = ["--only", "refused_then_more", "--quick", "--rivals", "naive"]
    found = run_faults("--bundle", str(bundle), *only, "--out", str(out))
    assert found.returncode == 0, found.stdout + found.stderr
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [each["server"] for each in lines] == ["bidlight", "naive"]
    assert lines[0]["figures"] == {"wrong statuses": 0.0}
    assert json.loads(found.stdout.splitlines()[-1]) == lines[-1]


def test_a_wrong_name_or_a_bundle_without_samples_is_one_line(tmp_path: Path) -> None:
    assert "must be names of scenarios (got 'storm')" in run_faults("--only", "storm").stderr
    assert "must be names of bidlight," in run_faults("--rivals", "storm").stderr
    found = run_faults("--bundle", str(tmp_path), "--only", "malformed_http")
    assert found.returncode == 2
    assert found.stderr.startswith("python -m loadtest.faults: error: '--bundle' must be a bundle")
    if missing_tools() or missing_redis():
        return
    (tmp_path / "manifest.json").write_text("{}", encoding="utf-8")
    found = run_faults("--bundle", str(tmp_path), "--only", "malformed_http")
    assert found.returncode == 2
    assert found.stderr.strip().splitlines()[-1].startswith("python -m loadtest.faults: error: ")


def test_a_missed_figure_is_exit_status_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if missing_tools() or missing_redis():
        pytest.skip("needs the tools of the program")
    (tmp_path / "manifest.json").write_text("{}", encoding="utf-8")
    for figures, status in (({"lost": 0, "share": 1.0}, 0), ({"lost": 1, "share": 1.0}, 1)):
        monkeypatch.setattr(program, "SCENARIOS", {"made_up": scenario_of(figures)})
        assert program.main(["--bundle", str(tmp_path)]) == status
