"""The benchmarks of graphs print a table and a line of JSON, and count products."""

from __future__ import annotations

import json

import pytest

from benchmarks import graph, interactions, shared_context


def test_a_table_the_nodes_and_a_line_of_json(capsys: pytest.CaptureFixture[str]) -> None:
    graph.main(["--rows", "2000", "--rounds", "1", "--nodes"])
    printed = capsys.readouterr().out
    figures = json.loads(printed.splitlines()[-1])["figures"]
    assert len(figures) == 9
    assert "QGemm" in printed


def test_shared_graphs_are_measured_beside_the_plain_ones(capsys: pytest.CaptureFixture[str]) -> None:
    shared_context.main(["--rows", "2000", "--rounds", "1", "--widths", "24", "16", "--pairs", "5"])
    printed = capsys.readouterr().out
    figures = json.loads(printed.splitlines()[-1])["figures"]
    assert list(figures) == ["dense PyTorch"] + [
        f"24-16, 5 pairs, {kind} {variant}" for kind in ("plain", "shared") for variant in ("float32", "int8")
    ]
    assert all(list(by_count) == ["1", "10", "100", "500"] for by_count in figures.values())
    assert "24-16, 5 pairs: 1.0x, " in printed


def test_models_without_interactions_are_measured_beside_dense_ones(
    capsys: pytest.CaptureFixture[str],
) -> None:
    sizes = ["--fields", "8", "--rows", "400", "--rounds", "1"]
    interactions.main(["--models", "pnn", *sizes, "--interactions", "0.9", "--dimensions", "0.5"])
    printed = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert list(printed["figures"]) == [
        f"pnn {form} {kind}" for form in ("dense", "pruned") for kind in ("float32", "int8")
    ]
    assert printed["recipe"]["interactions"] == 0.9
    assert printed["bytes"]["pnn pruned float32"] < printed["bytes"]["pnn dense float32"]


def test_products_a_row() -> None:
    assert graph.products((4, 3), 5, 6, inputs=2) == 2 * 6 * 4 + 4 * 3 + 3 * 1 + 5 * 6
