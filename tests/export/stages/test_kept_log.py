"""An encoded log is used again only where it is the one that the same inputs give."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from export.stages.fit_schema import fit_schema, kept_log
from export.stages.plan import LogPlan
from export.stages.work import Work

SCHEMA = """
name = "shop"
format = "csv"
[label]
column = "clicked"
[[field]]
name = "ad"
kind = "categorical"
role = "candidate"
"""


def log_plan(folder: Path, name: str, *, rows: int) -> LogPlan:
    draw = np.random.default_rng(rows)
    clicks, ads = draw.random(rows) < 0.4, draw.integers(0, 9, rows)
    lines = [f"{int(click)},a{ad}" for click, ad in zip(clicks, ads, strict=True)]
    (folder / name).write_text("\n".join(["clicked,ad", *lines]) + "\n")
    (folder / "shop.toml").write_text(SCHEMA)
    return LogPlan(data=folder / name, schema=str(folder / "shop.toml"))


@pytest.fixture
def plan(tmp_path: Path) -> LogPlan:
    return log_plan(tmp_path, "shop.csv", rows=400)


def test_the_same_inputs_keep_the_log_whoever_made_it(plan: LogPlan, tmp_path: Path) -> None:
    work, lines = Work(tmp_path / "work"), []
    made = fit_schema(work, plan, say=str)
    assert kept_log(work, plan, say=lines.append) == made
    assert lines == ["kept from an earlier run"]


def test_a_log_of_another_stage_is_not_taken_for_an_earlier_one(plan: LogPlan, tmp_path: Path) -> None:
    work, lines = Work(tmp_path / "work"), []
    first = kept_log(work, plan, say=str)
    fit_schema(work, log_plan(tmp_path, "other.csv", rows=500), say=str)
    again = kept_log(work, plan, say=lines.append)
    assert "kept from an earlier run" not in lines
    assert again == first
    assert sum(again.rows.values()) == 400


def test_other_inputs_make_the_log_anew(plan: LogPlan, tmp_path: Path) -> None:
    work = Work(tmp_path / "work")
    first = kept_log(work, plan, say=str)
    other = kept_log(work, replace(plan, split=(0.6, 0.2, 0.1, 0.1)), say=str)
    assert other.key != first.key
    assert other.rows["train"] < first.rows["train"]
    with plan.data.open("a") as file:
        file.write("1,a3\n")
    assert sum(kept_log(work, plan, say=str).rows.values()) == 401
