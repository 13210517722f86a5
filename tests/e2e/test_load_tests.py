"""The load tests against the real service: Locust exits by the SLO, and the benchmark completes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.running import REPOSITORY, RunningService


def run_locust(service: RunningService, bundle: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "locust",
        "-f",
        "loadtest/locustfile.py",
        "--headless",
        "--host",
        service.url,
    ]
    command += ["--users", "2", "--spawn-rate", "2", "--run-time", "1s", "--bundle", str(bundle), *options]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=False)


def test_a_kept_slo_exits_0_and_prints_the_table(
    service: RunningService, bundles: dict[str, Path], tmp_path: Path
) -> None:
    report = tmp_path / "report.json"
    slo = ["--slo-p99-ms", "5000", "--slo-error-rate", "0.001", "--slo-rps", "1"]
    run = run_locust(service, bundles["control"], *slo, "--report-json", str(report))
    assert run.returncode == 0, run.stdout + run.stderr
    lines = run.stdout.strip().splitlines()
    assert lines[-1] == "SLO kept"
    assert lines[-2].startswith("arms: control ")
    assert [line[:16].strip() for line in lines[-6:-2]] == [
        "1 candidate",
        "10 candidates",
        "100 candidates",
        "all",
    ]
    found = json.loads(report.read_text())
    assert found["sizes"]["all"]["errors"] == 0
    assert found["sizes"]["all"]["answers"] == sum(found["arms"].values())
    assert set(found["arms"]) == {"control", "treatment"}


def test_a_missed_slo_exits_1_and_names_what_was_missed(
    service: RunningService, bundles: dict[str, Path]
) -> None:
    run = run_locust(service, bundles["control"], "--sizes", "3", "--slo-rps", "1e9", "--slo-p99-ms", "0.001")
    assert run.returncode == 1
    missed = [line for line in run.stdout.splitlines() if line.startswith("SLO missed: ")]
    assert len(missed) == 2, run.stdout
    assert missed[0].startswith("SLO missed: p99 of 3 candidates is ")
    assert missed[1].endswith(" answers a second, fewer than 1e+09")


def test_wrong_answers_count_as_errors(service: RunningService, bundles: dict[str, Path]) -> None:
    options = [
        "--sizes",
        "2",
        "--pin-arms",
        "treatment,absent",
        "--slo-error-rate",
        "0.2",
        "--target-rps",
        "100",
    ]
    run = run_locust(service, bundles["control"], *options)
    assert run.returncode == 1
    assert "SLO missed: the error rate is 0." in run.stdout
    assert "unknown_arm" in run.stdout + run.stderr  # Locust's table of errors says why
    assert "arms: treatment 100.0 %" in run.stdout


def test_without_an_slo_the_exit_code_is_locust_s_own(
    service: RunningService, bundles: dict[str, Path]
) -> None:
    assert run_locust(service, bundles["control"], "--pin-arms", "control").returncode == 0
    assert run_locust(service, bundles["control"], "--pin-arms", "absent").returncode == 1


def test_several_locust_processes_add_up(
    service: RunningService, bundles: dict[str, Path], tmp_path: Path
) -> None:
    report = tmp_path / "report.json"
    options = [
        "--processes",
        "2",
        "--sizes",
        "1:1,5:1",
        "--slo-error-rate",
        "0",
        "--report-json",
        str(report),
    ]
    run = run_locust(service, bundles["control"], *options)
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.count("SLO kept") == 1
    sizes = json.loads(report.read_text())["sizes"]
    assert sizes["all"]["answers"] == sizes["1 candidate"]["answers"] + sizes["5 candidates"]["answers"] > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--bundle", "absent"], "must be a file of sample rows"),
        (["--sizes", "many"], "sizes must be like 1:6,10:3,100:1 (got 'many')"),
        (["--slo-p99-ms", "0"], "must be a finite number above 0 (got '0')"),
        (["--slo-error-rate", "5"], "must be between 0 and 1 (got '5')"),
        (["--slo-rps", "fast"], "must be a number (got 'fast')"),
    ],
)
def test_mistyped_options_are_refused(service: RunningService, options: list[str], message: str) -> None:
    run = run_locust(service, Path("absent"), *options)
    assert run.returncode == 2
    assert message in run.stderr
    assert "Traceback" not in run.stderr


def test_the_benchmark_measures_both_services_and_ends_with_a_line_for_machines(
    bundles: dict[str, Path],
) -> None:
    command = [
        sys.executable,
        "-m",
        "loadtest.reports.bench",
        "--bundle",
        str(bundles["control"]),
        "--seconds",
        "1",
    ]
    command += ["--repetitions", "1", "--warm-up", "0", "--users", "2"]
    command += ["--candidates", "1,20", "--connections", "2"]
    run = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    found = json.loads(run.stdout.splitlines()[-1])
    assert found["bundle"].startswith("tiny-control@")
    assert found["locust"]["sizes"]["all"]["answers"] > 0
    assert "cores" in found["machine"]
    if shutil.which("wrk") and shutil.which("taskset"):
        assert [(point["server"], point["candidates"]) for point in found["wrk"]] == [
            ("bidlight", 1),
            ("naive", 1),
            ("bidlight", 20),
            ("naive", 20),
        ]
        assert all(point["requests_a_second"] > 0 for point in found["wrk"])
        assert [each["candidates"] for each in found["over_naive"]] == [1, 20]
    else:
        assert found["wrk"] == []
        assert "no closed-loop figures" in run.stdout


def test_a_benchmark_without_a_bundle_fails_in_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "loadtest.reports.bench", "--bundle", str(tmp_path)]
    run = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 2
    assert run.stderr.startswith("python -m loadtest.reports.bench: error: '--bundle' must be a bundle")
    assert "Traceback" not in run.stderr
