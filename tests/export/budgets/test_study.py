"""What a search varies, and that its points come from the trials that ended, not from the process."""

from __future__ import annotations

import pytest

from export.budgets.records import Limits, Trial
from export.budgets.space import ALL_KEPT, Space, space_of
from export.budgets.study import next_point
from export.compress.recipes import PARTS, RECIPES
from models.deep_fwfm import DeepFwFM
from models.fields import Field
from models.lr import LR
from models.xdeepint import XDeepInt
from tests.export.budgets.test_records import form_of

FIELDS = (Field("page", 30), Field("ad", 40, role="candidate"))
SPACE = space_of(DeepFwFM(FIELDS, dim=4, hidden_units=(8,)), {"dim": 4, "hidden_units": (8,)})


def run(space: Space, limits: Limits, trials: int, *, seed: int = 0) -> list[Trial]:
    """Trials: pruned pairs cost AUC, kept neurons cost time."""
    done: list[Trial] = []
    while len(done) < trials:
        name, kept = next_point(space, done, limits, seed)
        assert all(axis.least <= kept[axis.part] <= 1.0 for axis in space.axes)
        form = form_of(0.7 + 0.05 * kept.get("field_matrix", 1.0), 10.0 * kept.get("neurons", 1.0), 1000)
        done.append(Trial(number=len(done) + 1, name=name, kept=kept, seconds=1.0, form=form))
    return done


def test_a_model_has_axes_for_the_parts_that_it_has() -> None:
    assert {axis.part for axis in SPACE.axes} == set(PARTS) - {"interactions"}
    assert [axis.part for axis in space_of(LR(FIELDS), {}).axes] == ["embedding"]
    # Its embeddings are split into equal parts, which must stay equal.
    parts = [axis.part for axis in space_of(XDeepInt(FIELDS, dim=4), {"dim": 4}).axes]
    assert parts == ["embedding", "interactions"]


def test_the_first_trials_have_the_presets_rates() -> None:
    starts = dict(SPACE.starts())
    assert next(iter(starts)) == "none"
    for name, kept in starts.items():
        recipe = SPACE.recipe(kept)
        for part in PARTS:
            assert getattr(recipe, part) == pytest.approx(getattr(RECIPES[name], part))
    assert "accurate" not in starts  # prunes nothing, as `none`
    assert [one.name for one in run(SPACE, Limits(bytes=500), len(starts))] == [*starts]


def test_a_few_per_cent_are_not_pruned() -> None:
    drawn = {axis.part: ALL_KEPT for axis in SPACE.axes}
    assert not SPACE.recipe(SPACE.settled(drawn)).prunes


def test_points_depend_on_the_trials_and_the_seed_alone_and_come_near_what_keeps_the_limits() -> None:
    limits = Limits(microseconds=1.0)
    whole = run(SPACE, limits, 30)
    assert next_point(SPACE, whole[:17], limits, 0) == (whole[17].name, whole[17].kept)
    assert run(SPACE, limits, 12, seed=1)[-1].kept != whole[11].kept
    late = [one.form for one in whole[-10:] if one.form is not None]
    assert sum(limits.hold(form) for form in late) >= 5  # one of four by chance
