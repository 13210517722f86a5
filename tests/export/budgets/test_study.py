"""What a search varies, and that its points come from the trials that ended, not from the process."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable

import msgspec
import pytest

from export.budgets.records import Form, Limits, Trial
from export.budgets.space import (
    DRAWN,
    FLOAT,
    ITSELF,
    MOST_KEPT,
    NO,
    QAT,
    QUANTIZATION,
    ROW_BITS,
    STATIC,
    STUDENT,
    YES,
    Kind,
    Space,
    losable_parts,
    prunes,
    space_of,
)
from export.budgets.study import next_point
from export.compress.recipes import PARTS, RECIPES
from export.trials import Values
from models.deep_fwfm import DeepFwFM
from models.fields import Field
from models.lr import LR
from models.xdeepint import XDeepInt
from tests.export.budgets.test_records import form_of

FIELDS = (Field("page", 30), Field("ad", 40, role="candidate"))
OWN = losable_parts(DeepFwFM(FIELDS, dim=4, hidden_units=(8,)), {"dim": 4, "hidden_units": (8,)})
SPACE = space_of([Kind(ITSELF, OWN)], {})
KINDS = (
    Kind(ITSELF, OWN),
    Kind("deep_fwfm", OWN, layers=3, dim=10),
    Kind("dnn", ("dnn", "embedding", "neurons"), layers=3, dim=10),
    Kind("lr", ("embedding",), dim=1),
)
WHOLE = space_of(KINDS)


def pairs_cost_auc_and_neurons_time(values: Values) -> Form:
    """A form; lr costs both least."""
    cost = 1.0 if values.get(STUDENT) == "lr" else float(values.get("neurons", 1.0))
    return form_of(0.7 + 0.05 * float(values.get("field_matrix", 1.0)), 10.0 * cost, 1000)


def less_is_worse_without_end(values: Values) -> Form:
    """A form: neurons and rows cost AUC by their orders of magnitude, so any point is on the front of all."""
    neurons, rows = float(values.get("neurons", 1.0)), float(values.get("embedding", 1.0))
    auc = 0.7 + 0.02 * math.log10(neurons) + 0.02 * math.log10(rows)
    return form_of(auc, 10.0 * neurons, round(1e6 * rows))


def run(
    space: Space,
    limits: Limits,
    trials: int,
    *,
    seed: int = 0,
    made: Callable[[Values], Form] = pairs_cost_auc_and_neurons_time,
) -> list[Trial]:
    """Trials whose forms follow from their points."""
    done: list[Trial] = []
    while len(done) < trials:
        name, values = next_point(space, done, limits, seed)
        expected = [axis.name for axis in space.axes if axis.exists(values)]
        assert [*values] == expected
        assert all(axis.holds(values[axis.name]) for axis in space.axes if axis.name in values)
        done.append(Trial(number=len(done) + 1, name=name, values=values, seconds=1.0, form=made(values)))
    return done


def test_a_model_has_axes_for_the_parts_that_it_has() -> None:
    assert set(OWN) == set(PARTS) - {"interactions"}
    assert {axis.name for axis in SPACE.axes} == {*OWN, *map(prunes, OWN)}
    assert losable_parts(LR(FIELDS), {}) == ("embedding",)
    # Its embeddings are split into equal parts, which must stay equal.
    assert losable_parts(XDeepInt(FIELDS, dim=4), {"dim": 4}) == ("embedding", "interactions")


def test_the_first_trials_have_the_presets_rates() -> None:
    starts = dict(SPACE.starts())
    assert next(iter(starts)) == "none"
    for name, values in starts.items():
        recipe = SPACE.recipe(values)
        for part in OWN:
            assert getattr(recipe, part) == pytest.approx(getattr(RECIPES[name], part))
    assert "accurate" not in starts  # prunes nothing, as `none`
    assert [one.name for one in run(SPACE, Limits(bytes=500), len(starts))] == [*starts]


def test_then_comes_a_student_of_each_kind_and_each_way_to_end() -> None:
    starts = dict(WHOLE.starts())
    assert [*starts][-7:] == ["deep_fwfm", "dnn", "lr", FLOAT, QAT, "4-bit-rows", "mixed-bit-rows"]
    for kind in KINDS[1:]:
        assert starts[kind.name][STUDENT] == kind.name
        assert not WHOLE.recipe(starts[kind.name]).prunes
    assert starts["lr"] == {STUDENT: "lr", prunes("embedding"): NO, QUANTIZATION: STATIC, ROW_BITS: "8"}
    assert ROW_BITS not in starts[FLOAT]


def test_a_part_is_kept_whole_or_loses_more_than_a_few_per_cent() -> None:
    for part in OWN:
        switch, share = (
            next(axis for axis in WHOLE.axes if axis.name == name) for name in (prunes(part), part)
        )
        assert switch.choices == (NO, YES)
        assert share.high == MOST_KEPT
        assert not share.exists({prunes(part): NO})
        assert share.exists({prunes(part): YES})


@pytest.mark.parametrize("space", [SPACE, WHOLE], ids=["itself", "students"])
def test_points_depend_on_the_trials_and_the_seed_alone_and_come_near_what_keeps_the_limits(
    space: Space,
) -> None:
    limits = Limits(microseconds=1.0)
    whole = run(space, limits, 30)
    first = len(space.starts())
    assert next_point(space, whole[:17], limits, 0) == (whole[17].name, whole[17].values)
    assert run(space, limits, first + 1, seed=1)[-1].values != whole[first].values
    assert all(one.values != other.values for at, one in enumerate(whole) for other in whole[:at])
    late = [one.form for one in whole[-10:] if one.form is not None]
    assert sum(limits.hold(form) for form in late) >= 5  # fewer by chance


@pytest.mark.parametrize(
    ("limits", "least"),
    [
        (Limits(microseconds=4.0), 0.675),
        (Limits(bytes=300_000), 0.675),
        (Limits(auc_loss=0.07), -3.5),  # the fastest is asked for
    ],
    ids=["time", "bytes", "auc"],
)
def test_points_are_drawn_near_the_best_within_the_limits_and_not_along_the_front(
    limits: Limits, least: float
) -> None:
    """At random, or for the front of all three figures, half are worse than 0.668 of AUC, or 5 us."""
    late = [one.form for one in run(SPACE, limits, 40, made=less_is_worse_without_end)[-20:]]
    within = [limits.worth(form) for form in late if form is not None and limits.hold(form)]
    assert len(within) >= 6
    assert statistics.median(within) > least


def test_points_come_nearer_to_limits_that_no_trial_keeps() -> None:
    limits = Limits(microseconds=1e-9)
    done = run(SPACE, limits, 40, made=less_is_worse_without_end)
    late = [one.form.microseconds for one in done[-10:] if one.form is not None]
    assert statistics.median(late) < 1.0  # of ten


def test_points_are_drawn_where_every_trial_failed() -> None:
    limits = Limits(bytes=1000)
    done = run(SPACE, limits, len(SPACE.starts()))
    failed = [msgspec.structs.replace(one, form=None, reason="it failed") for one in done]
    assert next_point(SPACE, failed, limits, 0)[0] == DRAWN
