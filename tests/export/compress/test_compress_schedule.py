"""The rate of Algorithm 1 reaches its target on a log of any length, on the paper's curve."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from export.compress.choice import PruneChoice
from export.compress.fitting import PRESETS_BY_ROWS, rule_in_words
from export.compress.recipes import PARTS, RECIPES, Recipe, find_recipe
from export.compress.schedule import RESIDUAL, is_pruning_step, pruning_interval, sparse_rate
from export.errors import ExportError

targets = st.floats(0, 0.999)
lengths = st.integers(1, 10_000)


@given(targets, lengths)
def test_the_target_is_reached_exactly_at_the_last_step(target: float, steps: int) -> None:
    assert sparse_rate(target, 0, steps) == 0.0
    assert sparse_rate(target, steps, steps) == target
    assert sparse_rate(target, steps + 1, steps) == target


@given(targets, st.integers(2, 500))
def test_the_rate_grows_faster_early_than_late(target: float, steps: int) -> None:
    rates = [sparse_rate(target, step, steps) for step in range(steps + 1)]
    gains = [after - before for before, after in itertools.pairwise(rates)]
    assert all(gain >= 0 for gain in gains)
    assert all(late <= early + 1e-12 for early, late in itertools.pairwise(gains))


@given(targets, lengths, st.floats(0, 1))
def test_it_is_the_papers_formula_with_a_scaled_interval(target: float, steps: int, share: float) -> None:
    """s = S (1 - D^(k/W)), D = 0.99, with W chosen so that `RESIDUAL` is missing at the end, normalised."""
    step = round(share * steps)
    interval = steps * math.log(0.99) / math.log(RESIDUAL)
    paper = target * (1 - 0.99 ** (step / interval))
    assert sparse_rate(target, step, steps) == pytest.approx(paper / (1 - RESIDUAL), abs=1e-9)


@given(lengths, st.integers(1, 50))
def test_the_last_step_prunes_and_none_after(steps: int, every: int) -> None:
    pruning = [step for step in range(steps + 100) if is_pruning_step(step, steps, every)]
    assert pruning[-1] == steps
    assert set(range(every, steps, every)) <= set(pruning) <= {*range(every, steps, every), steps}


@pytest.mark.parametrize(("steps", "interval"), [(1, 1), (7, 1), (60, 3), (199, 9), (200, 10), (9_000, 10)])
def test_a_small_log_is_pruned_in_as_many_small_steps(steps: int, interval: int) -> None:
    assert pruning_interval(steps, every=10) == interval


def test_the_presets_are_the_papers() -> None:
    parts = ("dnn", "field_matrix", "embedding")
    papers = {"high-performance": (90, 90, 40), "low-memory": (90, 90, 90), "low-latency": (99, 95, 40)}
    for name, percent in papers.items():
        assert RECIPES[name].rates == {part: rate / 100 for part, rate in zip(parts, percent, strict=True)}
    assert RECIPES["narrow"].rates == {**RECIPES["low-latency"].rates, "neurons": 0.75}
    assert not RECIPES["none"].prunes
    assert RECIPES["low-memory"].prunes


@pytest.mark.parametrize("rate", [-0.1, 1.0, 90, float("nan")])
def test_a_rate_outside_its_range_is_refused(rate: float) -> None:
    for part in PARTS:
        rates = dict.fromkeys(PARTS, 0.5) | {part: rate}
        with pytest.raises(ExportError, match=rf"'{part}' of recipe 'mine' must be in \[0, 1\)"):
            Recipe("mine", **rates)


def test_a_share_of_neurons_goes_before_the_presets() -> None:
    rows = 10_000_000
    assert PruneChoice(preset="narrow", neurons=0.75).recipe(rows) == RECIPES["narrow"]
    assert PruneChoice(neurons=0.5).recipe(rows).name == "low-latency, neurons 50%"
    assert PruneChoice(neurons=0.75).recipe(rows).rates == {**RECIPES["low-latency"].rates, "neurons": 0.75}
    assert PruneChoice(preset="none", neurons=0.5).recipe(rows).prunes
    three = PruneChoice(preset="narrow", neurons=0.5, interactions=0.9, dimensions=0.25).recipe(rows)
    assert three.name == "narrow, neurons 50%, interactions 90%, dimensions 25%"
    assert three.with_units(neurons=0.75, dimensions=0.0).name == "narrow, interactions 90%"
    assert "neurons" not in PruneChoice(preset="narrow", neurons=0.0).recipe(rows).rates
    with pytest.raises(ExportError, match=r"'neurons' must be at least 0 and below 1.* \(got 1\.5\)"):
        PruneChoice(preset="none", neurons=1.5)


def test_the_default_preset_follows_the_rows_and_a_chosen_one_does_not() -> None:
    bounds = {1_000_000: "low-latency", 999_999: "high-performance", 65_536: "high-performance", 1: "none"}
    for rows, preset in (bounds | {65_535: "none"}).items():
        assert PruneChoice().recipe(rows) == RECIPES[preset]
    for least, preset in PRESETS_BY_ROWS.items():
        assert (f"{preset} from {least:,} on" if least else f"{preset} below") in rule_in_words()
    assert PruneChoice(preset="low-memory").recipe(10) == RECIPES["low-memory"]
    assert PruneChoice(neurons=0.5).recipe(10).name == "none, neurons 50%"


def test_the_default_preset_is_none_for_a_model_that_gets_no_smaller() -> None:
    assert PruneChoice().recipe(10_000_000, shrinks=False) == RECIPES["none"]
    assert PruneChoice(preset="low-latency").recipe(10, shrinks=False) == RECIPES["low-latency"]
    assert rule_in_words().endswith("and for models that pruning makes no smaller")


def test_an_unknown_preset_names_those_there_are() -> None:
    with pytest.raises(ExportError, match=r"low-latency.*got 'fast'"):
        find_recipe("fast")
