"""The benchmark of budgets chooses by the validation part, tries models alike, and does nothing twice."""

from __future__ import annotations

import argparse
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.budgets.__main__ import JSON, MARKDOWN, PAGE, bytes_of, main
from benchmarks.budgets.records import Budget, Entry, Table, best_of
from benchmarks.budgets.tables import size_text
from benchmarks.command import ended
from export.data.synthetic import SyntheticConfig
from export.data.synthetic_file import write_synthetic_log

CONFIG = SyntheticConfig(
    rows=1600, seed=5, features=100, numeric_fields=0, categorical_fields=2, candidate_fields=1, ctr=0.3
)

ENTRIES = st.lists(
    st.builds(
        Entry,
        model=st.sampled_from(["lr", "fm"]),
        trial=st.integers(1, 3),
        recipe=st.just(""),
        graph=st.just("int8"),
        auc=st.sampled_from([0.6, 0.7, 0.8]),
        microseconds=st.sampled_from([0.5, 2.0, 8.0]),
        bytes=st.sampled_from([50_000, 500_000]),
        parameters=st.just(1),
    ),
    max_size=6,
)
BUDGETS = st.builds(
    Budget, microseconds=st.none() | st.sampled_from([0.1, 1.0, 5.0]), bytes=st.none() | st.just(100_000)
)


@given(ENTRIES, BUDGETS)
def test_the_best_keeps_its_budget_and_no_other_that_does_has_more_auc(
    entries: list[Entry], budget: Budget
) -> None:
    within = [
        one
        for one in entries
        if (budget.microseconds is None or one.microseconds <= budget.microseconds)
        and (budget.bytes is None or one.bytes <= budget.bytes)
    ]
    best = best_of(entries, budget)
    if best is None:
        assert not within
        return
    assert best in within
    assert best.auc == max(one.auc for one in within)
    assert best.microseconds == min(one.microseconds for one in within if one.auc == best.auc)


@pytest.mark.parametrize(
    ("text", "size"), [("100kB", 100_000), ("1MB", 1_000_000), ("1.5MB", 1_500_000), ("7B", 7), ("12", 12)]
)
def test_sizes_are_in_units_of_a_thousand(text: str, size: int) -> None:
    assert bytes_of(text) == size
    assert bytes_of(size_text(size).replace(" ", "")) == size


@pytest.mark.parametrize("text", ["kB", "0", "-1MB", "1GiB", ""])
def test_another_size_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="must be a number of bytes, kB or MB"):
        bytes_of(text)


def test_models_are_tried_in_rounds_and_what_is_done_is_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    schema = write_synthetic_log(CONFIG, tmp_path / "log.parquet", report=str)
    out = tmp_path / "out"
    options = ["--data", str(tmp_path / "log.parquet"), "--schema", str(schema), "--out", str(out)]
    options += ["--models", "lr,fwfm,din", "--dim", "2", "--epochs", "1", "--finetune-epochs", "0.1"]
    options += ["--budgets-us", "0.001,1000", "--budgets-bytes", "10MB", "--trials", "1"]

    def table() -> Table:
        assert main(options) == 0
        return msgspec.json.decode((out / JSON).read_bytes(), type=Table)

    first = table()
    assert [one.model for one in first.failures] == ["din"]  # the log has no history
    assert first.models == ("lr", "fwfm")
    assert first.complete
    assert {one.model for one in first.entries} <= {"lr", "fwfm"}
    budgets = [one.budget for one in first.best]
    assert budgets == [Budget(), Budget(microseconds=1000.0), Budget(bytes=10_000_000)]  # none takes 1 ns
    free = first.best[0]
    assert free.entry.auc == max(one.auc for one in first.entries)
    assert free.to_free.low == free.to_free.high == 0
    assert free.auc_interval[0] <= free.auc <= free.auc_interval[1]
    assert "| 0.001 us | `none` |" in (out / MARKDOWN).read_text()
    assert "<svg" in (out / PAGE).read_text()

    records = {path: path.stat().st_mtime_ns for path in out.rglob("trial.json")}
    assert len(records) == 2
    capsys.readouterr()
    second = table()
    assert {path: path.stat().st_mtime_ns for path in out.rglob("trial.json")} == records
    assert [one.auc for one in second.entries] == [one.auc for one in first.entries]
    assert main(["--show", str(out)]) == 0
    assert ended(main, ["--show", str(tmp_path)]) == 2
    assert "'--show' must be a folder with budgets.json" in capsys.readouterr().err
