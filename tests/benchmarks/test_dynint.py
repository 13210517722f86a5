"""The benchmark of DynInt counts memory as the paper does."""

from __future__ import annotations

import pytest

from benchmarks.dynint import LATENT_RANK, LAYERS, N_FIELDS, measure, print_figures

ROWS = 16


def test_dynamic_parameters_take_what_the_formulas_say(capsys: pytest.CaptureFixture[str]) -> None:
    figures = measure(sub_spaces=1, rows=ROWS, rounds=1)
    rank = N_FIELDS // 10
    numbers_a_row = {
        "xdeepint, static": 0,
        "dynint_da": N_FIELDS,
        "dynint_dgp": rank**2,
        "dynint_dgp, diagonal": rank,
        "dynint_dgp, written out": N_FIELDS**2,
        "dynint_dwp": 2 * LATENT_RANK * N_FIELDS,
        "dynint_dwp, written out": N_FIELDS**2,
    }
    for name, numbers in numbers_a_row.items():
        assert figures[name]["dynamic_mb"] == pytest.approx(ROWS * LAYERS * numbers * 4 / 1e6)
        assert figures[name]["step_ms"] > 0
    for name in ("dynint_dgp", "dynint_dwp"):
        assert figures[name]["kept_mb"] < figures[f"{name}, written out"]["kept_mb"]
        assert figures[name]["parameters"] == figures[f"{name}, written out"]["parameters"]
    print_figures(1, ROWS, figures)
    printed = capsys.readouterr().out
    assert "dynint_dgp, against written out: dynamic -99.4% (as counted -99.4%)" in printed
    assert "dynint_dwp, against written out: dynamic -89.7% (as counted -89.7%)" in printed
