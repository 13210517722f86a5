"""However a contender ends, the others go on and its reason is told."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace
from multiprocessing import forkserver
from pathlib import Path

import msgspec
import numpy as np
import pytest

from export.compare import jobs
from export.compare.contender import PCTR, RESULT, TRACEBACK
from export.compare.jobs import attempt, outcomes
from export.compare.records import Failure, Result
from tests.export.compare.contenders import ending

ROOT = Path(__file__).parents[3]


def test_a_result_is_passed_on_with_its_lines(tmp_path: Path) -> None:
    lines: list[str] = []
    outcome = attempt(ending("fine", tmp_path), lines.append)
    assert isinstance(outcome, Result)
    assert lines == ["fine: here I am"]


def test_a_refusal_is_a_failure_with_its_words(tmp_path: Path) -> None:
    lines: list[str] = []
    outcome = attempt(ending("refused", tmp_path), lines.append)
    reason = "'field' must be a sequence (got 'C1'); give one"
    assert outcome == Failure("refused", 0, "quantize", reason)
    assert lines[-1] == f"refused: failed in quantize: {reason}"
    assert not list(tmp_path.rglob(TRACEBACK))


def test_a_defect_is_a_failure_and_leaves_its_traceback(tmp_path: Path) -> None:
    contender = ending("defect", tmp_path)
    assert attempt(contender, str) == Failure("defect", 0, "quantize", "ZeroDivisionError: a defect")
    assert "raise ZeroDivisionError" in (contender.work.folder / TRACEBACK).read_text()


def test_ctrl_c_is_not_a_failure(tmp_path: Path) -> None:
    def interrupt(line: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        attempt(ending("fine", tmp_path), interrupt)


def test_in_processes_none_stops_the_others_not_even_one_that_is_killed(tmp_path: Path) -> None:
    names = ("killed", "refused", "fine")
    lines: list[str] = []
    found = list(outcomes([ending(name, tmp_path) for name in names], jobs=2, say=lines.append))
    by_name = {outcome.model: outcome for outcome in found}
    assert sorted(by_name) == sorted(names)
    assert isinstance(by_name["fine"], Result)
    assert by_name["refused"] == attempt(ending("refused", tmp_path / "here"), str)
    killed = by_name["killed"]
    assert isinstance(killed, Failure)
    assert "SIGKILL" in killed.reason
    assert "memory" in killed.reason
    assert {f"{name}: here I am" for name in names} <= set(lines)


def test_processes_end_with_the_loop_over_them(tmp_path: Path) -> None:
    running = outcomes([ending("fine", tmp_path, seed=seed) for seed in range(2)], jobs=2, say=str)
    assert isinstance(next(running), Result)
    running.close()  # type: ignore[attr-defined]
    assert list(running) == []


def test_ctrl_c_while_processes_prepare_leaves_no_trace(tmp_path: Path) -> None:
    """A terminal sends it to them too, and they import for seconds."""
    (tmp_path / "slow.py").write_text("import time\nopen('begun', 'w')\ntime.sleep(0.5)\n", encoding="utf-8")
    text = """
        import os, pathlib, signal, time
        from export.compare import jobs

        jobs.IMPORTED_ONCE = ["slow"]
        context = jobs._processes()
        while not pathlib.Path("begun").exists():
            time.sleep(0.01)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        os.killpg(0, signal.SIGINT)
        process = context.Process(target=os.getcwd)
        process.start()
        process.join()
        print(context.get_start_method(), process.exitcode)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(text)], cwd=tmp_path, text=True, capture_output=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, start_new_session=True, timeout=120, check=False,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("forkserver 0\n", "")


def test_where_no_process_can_be_asked_for_others_each_starts_by_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The folder of temporary files may have a longer name than a socket takes."""

    def too_long() -> None:
        raise OSError("AF_UNIX path too long")

    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(forkserver, "ensure_running", too_long)
    assert jobs._processes().get_start_method() == "spawn"
    assert signal.getsignal(signal.SIGINT) is before


def test_a_key_is_of_what_decides_the_result_alone(tmp_path: Path) -> None:
    key = ending("fine", tmp_path).key
    assert key == ending("fine", tmp_path / "elsewhere").key
    assert key != ending("other", tmp_path).key
    assert key != ending("fine", tmp_path, seed=1).key


def test_a_result_is_kept_for_the_contender_that_made_it(tmp_path: Path) -> None:
    contender = ending("fine", tmp_path)
    result = contender.compete(str, str)
    assert contender.kept() is None
    contender.work.write(RESULT, msgspec.json.encode(result))
    assert contender.kept() is None  # its predictions are not there
    np.savez(contender.work.folder / PCTR, float32=np.array([0.5]))
    assert contender.kept() == result
    assert replace(contender, graphs=replace(contender.graphs, quantization_rows=11)).kept() is None
    assert replace(contender, config=replace(contender.config, threads=3)).kept() == result
    contender.work.write(RESULT, b"{")
    assert contender.kept() is None
