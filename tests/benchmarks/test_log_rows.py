"""The benchmark of log rows compares the same work, and prints what a reader compares."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.log_rows import LOGS, REPOSITORY, Bench, core_ids, main, table_row
from service.bundle.native import IS_BUILT

ROWS = 2000
BOTH = {"fit", "encode in Python", "prepare in Python"}
OF_CORE = {"encode in the core", "prepare with the core"}


@pytest.mark.parametrize("name", LOGS)
def test_a_log_has_ids_of_all_its_rows(tmp_path: Path, name: str) -> None:
    bench = Bench(replace(LOGS[name], rows=ROWS), tmp_path)
    ids = core_ids(bench)
    assert sum(map(len, ids)) == ROWS
    # What is measured is no array of missing values.
    assert all((column > 0).any() for each in ids for column in each.T[:12])
    assert bench.stage(REPOSITORY) > 0.0


def test_the_table_and_the_last_line_tell_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--rows", str(ROWS), "--rounds", "1", "--logs", "histories"]) == 0
    *table, last = capsys.readouterr().out.splitlines()
    found = json.loads(last)["rows_a_second"]["histories"]
    assert set(found) == BOTH | (OF_CORE if IS_BUILT else set())
    assert table[-1].split() == table_row("histories", found)


def test_a_ratio_is_of_the_two_before_it() -> None:
    found = {"fit": 5.0, "encode in Python": 2.0, "encode in the core": 9.0, "prepare in Python": 3.0}
    assert table_row("log", found) == ["log", "5", "2", "9", "4.5x", "3", "-", "-", "-", "-", "-"]
