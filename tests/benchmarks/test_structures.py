"""The benchmark of pruned structures describes every graph, and makes each only once."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.structures import is_on_front, main, parse_recipe
from export.compress.recipes import RECIPES
from export.errors import ExportError

TINY = (
    "--rows",
    "3000",
    "--features",
    "300",
    "--hidden-units",
    "16",
    "8",
    "--epochs",
    "1",
    "--finetune-epochs",
    "1",
)


def run(work: Path, *more: str) -> None:
    main(["--work", str(work), *TINY, *more])


def test_it_describes_every_graph_and_makes_each_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def figures(*recipes: str) -> tuple[dict[tuple[str, str], dict[str, Any]], str]:
        run(tmp_path / "work", "--recipes", *recipes)
        printed = capsys.readouterr().out
        rows = json.loads(printed.splitlines()[-1])["graphs"]
        return {(row["recipe"], row["graph"]): row for row in rows}, printed

    first, printed = figures("N75")
    assert "training deep_fwfm" in printed
    assert list(first) == [(name, graph) for name in ("dense", "N75") for graph in ("float32", "int8")]
    dense, pruned = first["dense", "float32"], first["N75", "float32"]
    assert (dense["live_neurons"], pruned["live_neurons"]) == ([16, 8], [4, 2])
    assert dense["auc_delta"] == 0.0
    assert pruned["parameters"] < dense["parameters"]
    assert pruned["bytes"] < dense["bytes"]
    assert pruned["auc"] - dense["auc"] == pytest.approx(pruned["auc_delta"])
    assert set(pruned["microseconds_a_row"]) == {"1", "64", "1024"}

    second, printed = figures("N75", "D50N75")
    assert "training deep_fwfm" not in printed
    assert printed.count(": pruning") == 1
    assert second["N75", "int8"]["auc"] == first["N75", "int8"]["auc"]
    assert len(second) == 6

    with pytest.raises(ExportError, match=r"'work' must be a new folder, or one of the same options"):
        run(tmp_path / "work", "--seed", "2", "--recipes", "N75")


@pytest.mark.parametrize(
    ("text", "shares"),
    [
        ("D0", (0, 0, 0, 0)),
        ("D99", (0.99, 0, 0, 0)),
        ("N75", (0, 0.75, 0, 0)),
        ("D90N12.5", (0.9, 0.125, 0, 0)),
        ("D90I80K50", (0.9, 0, 0.8, 0.5)),
    ],
)
def test_a_recipe_is_read_as_the_paper_writes_it(text: str, shares: tuple[float, ...]) -> None:
    recipe, latency = parse_recipe(text), RECIPES["low-latency"]
    assert recipe.name == text
    assert (recipe.dnn, recipe.neurons, recipe.interactions, recipe.dimensions) == shares
    assert (recipe.field_matrix, recipe.embedding) == (latency.field_matrix, latency.embedding)


@pytest.mark.parametrize("text", ["", "D", "N100", "75", "N75D90", "D90 N75", "../D90"])
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="must be like D90, N75 or D99N75"):
        parse_recipe(text)


def test_the_front_is_what_nothing_beats_twice() -> None:
    def row(auc: float, microseconds: float) -> dict[str, Any]:
        return {"auc": auc, "microseconds_a_row": {"1": 9.0, "64": microseconds, "1024": 9.0}}

    rows = [row(0.70, 5.0), row(0.71, 3.0), row(0.69, 2.0), row(0.68, 2.5)]
    assert [is_on_front(one, rows) for one in rows] == [False, True, True, False]
