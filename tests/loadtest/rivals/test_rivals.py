"""The comparison over real servers, and its report of contenders that cannot run."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from loadtest.processes import tree
from loadtest.processes.machine import missing_tools
from loadtest.rivals import runner
from loadtest.rivals.contenders import ALL, SERVERS, Contender
from loadtest.rivals.environments import REQUIREMENTS, CannotInstall, Environments
from loadtest.rivals.figures import Entry
from loadtest.rivals.plan import parse
from loadtest.rivals.runner import Measured
from loadtest.traffic.answers import WrongAnswer, compare
from loadtest.traffic.known_ads import KnownAds
from tests.running import REPOSITORY
from tests.tiny_bundle import write_tiny_bundle

POINT_NAMES = {"contender", "candidates", "connections", "requests_per_second", "p50_ms", "p99_ms", "p999_ms"}
POINT_NAMES |= {"errors", "cpu_us_per_request", "rss_mb"}
needs_wrk = pytest.mark.skipif(bool(missing_tools()), reason=missing_tools())


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Calibrated by ad, so that contenders agree only if all of them take the offsets."""
    by_ad = {"segment_field": "ad", "segment_offsets": ((0, 0.3), (3, -0.8), (5, 0.9))}
    folder = tmp_path_factory.mktemp("bundle") / "tiny"
    return write_tiny_bundle(folder, name="tiny", seed=0, calibration=by_ad)


def run_rivals(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "loadtest.rivals", *options]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120, check=False)


@needs_wrk
def test_two_contenders_are_compared_and_the_last_line_is_for_machines(bundle: Path, tmp_path: Path) -> None:
    options = ["--bundle", str(bundle), "--contenders", "bidlight naive", "--candidates", "3"]
    options += ["--connections", "2", "--seconds", "1", "--rounds", "1", "--warm-up", "0"]
    options += ["--open-loop", "50"]
    run = run_rivals(*options, "--out", str(tmp_path))
    assert run.returncode == 0, run.stdout + run.stderr
    found = json.loads(run.stdout.splitlines()[-1])
    assert "cores" in found["machine"]
    assert found["left_out"] == []
    assert [(point["contender"], point["candidates"], point["connections"]) for point in found["points"]] == [
        ("bidlight", 3, 2),
        ("naive", 3, 2),
    ]
    for point in found["points"]:
        assert point.keys() >= POINT_NAMES
        assert point["errors"] == 0
        assert 0.0 < point["p50_ms"] <= point["p99_ms"] <= point["p999_ms"]
        assert point["requests_per_second"] > 0.0
        assert point["cpu_us_per_request"] > 0.0
        assert point["rss_mb"] > 10.0
    assert [ratio["over"] for ratio in found["ratios"]] == ["naive"]
    assert [share["contender"] for share in found["open_loop"]] == ["bidlight", "naive"]
    assert found["rows_compared"] == 2 * runner.CHECKED_BODIES * 3
    assert re.search(r"^ +3 +2 +bidlight +[\d,]+ ", run.stdout, flags=re.MULTILINE)
    assert {file.name for file in tmp_path.iterdir()} == {"rivals.json", "rivals.png", "open_loop.png"}


@needs_wrk
def test_ads_by_id_alone_are_known_to_all_contenders(bundle: Path, tmp_path: Path) -> None:
    options = ["--bundle", str(bundle), "--contenders", "naive bidlight", "--candidates", "3"]
    options += ["--connections", "2", "--seconds", "1", "--rounds", "1", "--out", str(tmp_path)]
    run = run_rivals(*options, "--warm-up", "0", "--ads", "known", "--known-ads", "150")
    assert run.returncode == 0, run.stdout + run.stderr
    found = json.loads(run.stdout.splitlines()[-1])
    assert found["left_out"] == []
    assert [point["contender"] for point in found["points"]] == ["naive", "bidlight"]
    assert (found["ads"], found["known_ads"]) == ("known", 150)
    assert found["rows_compared"] == 2 * runner.CHECKED_BODIES * 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--contenders", "bidlight uvicorn"],
            "must be names of bidlight, bidlight_asgi, bidlight_plain, bidlight_unmetered, naive",
        ),
        (["--candidates", "1 many"], "must be a whole number from 1 (got 'many')"),
        (["--connections", ""], "must be whole numbers from 1 (got '')"),
        (["--rounds", "0"], "must be a whole number from 1 (got '0')"),
        (["--ads", "some"], "invalid choice: 'some'"),
    ],
)
def test_mistyped_options_are_refused_in_a_line(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        parse(options)
    assert message in capsys.readouterr().err


@needs_wrk
def test_a_bundle_without_sample_requests_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{}", encoding="utf-8")
    run = run_rivals("--bundle", str(tmp_path), "--contenders", "naive")
    assert run.returncode == 2
    assert run.stderr.strip().splitlines()[-1].startswith("python -m loadtest.rivals: error: ")
    assert "Traceback" not in run.stderr


def test_a_contender_that_does_not_start_is_reported_with_what_it_wrote(bundle: Path) -> None:
    contenders = {"naive": Contender("naive", f"{SERVERS}.absent")}
    measured = Measured()
    plan = parse(["--bundle", str(bundle), "--contenders", "naive"])
    with runner.started(plan, b"{}", measured, lambda _: None, contenders=contenders) as servers:
        assert servers == {}
    (left_out,) = measured.left_out
    assert left_out["contender"] == "naive"
    assert "No module named" in left_out["reason"]


def test_a_contender_that_cannot_be_installed_is_reported(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "mosec.txt").write_text("./no-such-folder\n")
    environments = Environments(tmp_path, cache=tmp_path)
    measured = Measured()
    plan = parse(["--bundle", str(bundle), "--contenders", "mosec"])
    with runner.started(plan, b"{}", measured, lambda _: None, environments=environments) as servers:
        assert servers == {}
    assert [each["contender"] for each in measured.left_out] == ["mosec"]
    assert measured.left_out[0]["reason"].startswith("it could not be installed: ERROR: ")
    assert str(tmp_path / "mosec.log") in measured.left_out[0]["reason"]


def test_an_environment_is_made_once_and_again_when_its_list_changes(tmp_path: Path) -> None:
    (tmp_path / "some.txt").write_text("# nothing\n")
    environments = Environments(tmp_path, cache=tmp_path / "cache")
    python = environments.python_of("some")
    assert subprocess.run([python, "-c", "pass"]).returncode == 0
    marker = python.parent / "marker"
    marker.touch()
    assert environments.python_of("some") == python
    assert marker.exists()
    (tmp_path / "some.txt").write_text("# nothing else\n")
    environments.python_of("some")
    assert not marker.exists()


def test_an_interrupted_install_is_not_taken_for_a_whole_one(tmp_path: Path) -> None:
    (tmp_path / "some.txt").write_text("./no-such-folder\n")
    environments = Environments(tmp_path, cache=tmp_path / "cache")
    for _ in range(2):
        with pytest.raises(CannotInstall, match="no-such-folder"):
            environments.python_of("some")


@pytest.mark.parametrize("contender", ALL, ids=lambda contender: contender.name)
def test_every_contender_has_its_program_and_a_list_of_exact_versions(contender: Contender) -> None:
    if contender.environment is not None:
        lines = (REQUIREMENTS / f"{contender.environment}.txt").read_text().splitlines()
        assert [line for line in lines if not re.fullmatch(r"[\w.-]+==[\w.+]+", line)] == []
        assert {line.partition("==")[0] for line in lines} >= {"numpy", "msgspec", "onnxruntime"}
        assert (REPOSITORY / f"{contender.module.replace('.', '/')}.py").is_file()
    for setting in contender.settings:
        plain = contender.command(setting, Path("/bundle"))
        with_ads = contender.command(setting, Path("/bundle"), KnownAds(Path("/ads"), "lmdb:///store"))
        assert "{" not in " ".join(with_ads)
        assert with_ads[: len(plain)] == plain
        assert len(with_ads) > len(plain)
        assert str(Entry(contender.name, setting)).startswith(contender.name)


ANSWER = {"id": "r", "results": [{"id": "a", "pctr": 0.1, "bid": 0.2}, {"id": "b", "pctr": 0.1, "bid": None}]}


def test_equal_answers_are_counted() -> None:
    rounded = {"id": "r", "results": [{"id": "a", "pctr": 0.1 + 1e-8, "bid": 0.200001}, ANSWER["results"][1]]}
    assert compare([ANSWER, ANSWER], [ANSWER, rounded]) == 4


@pytest.mark.parametrize(
    "other",
    [
        {"id": "s", "results": ANSWER["results"]},
        {"id": "r", "results": ANSWER["results"][:1]},
        {"id": "r", "results": ANSWER["results"][::-1]},
        {"id": "r", "results": [{"id": "a", "pctr": 0.1001, "bid": 0.2}, ANSWER["results"][1]]},
        {"id": "r", "results": [{"id": "a", "pctr": 0.1, "bid": 0.21}, ANSWER["results"][1]]},
        {"id": "r", "results": [{"id": "a", "pctr": 0.1, "bid": None}, ANSWER["results"][1]]},
    ],
)
def test_different_answers_are_found(other: dict[str, object]) -> None:
    with pytest.raises(WrongAnswer):
        compare([ANSWER], [other])


def test_a_server_is_all_its_processes_orphans_too() -> None:
    # The shell starts a child, and a subshell that ends at once and leaves its own child behind.
    script = "sleep 60 & (sleep 60 &) ; echo ready; wait"
    shell = subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE, start_new_session=True)
    assert shell.stdout is not None
    with shell, shell.stdout:
        try:
            assert shell.stdout.readline() == b"ready\n"
            processes = tree.members(shell.pid)
            assert len(processes) == 3
            assert processes[0] == shell.pid
            assert tree.memory_mb(processes) > tree.memory_mb(processes[:1]) > 0.0
            assert tree.cpu_seconds(processes) >= 0.0
            tree.send(processes, signal.SIGSTOP)
            assert states_of(processes, "T") == {"T"}
        finally:
            tree.send(tree.members(shell.pid), signal.SIGKILL)
    assert tree.cpu_seconds([shell.pid]) is None
    assert tree.memory_mb([shell.pid]) is None


def states_of(processes: list[int], expected: str) -> set[str]:
    """Their states, once they are the expected one or a while has passed: signals are not instant."""
    for _ in range(100):
        found = {Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()[0] for each in processes}
        if found == {expected}:
            break
        time.sleep(0.02)
    return found


def test_all_names_every_contender_and_numbers_may_have_commas(bundle: Path) -> None:
    given = ["--bundle", str(bundle), "--contenders", "all", "--candidates", "1,100"]
    plan = parse([*given, "--seconds", "6", "--rounds", "4"])
    assert plan.contenders == tuple(contender.name for contender in ALL)
    assert plan.candidates == (1, 100)
    assert plan.seconds_a_round == 2
