"""The space around a model's defaults: its middle is the defaults, and every point of it can be trained."""

from __future__ import annotations

import tomllib

import numpy as np
import pytest

from export.train.build import build_from_fields, possible_dim
from export.train.choices import TrainChoice
from export.trials import Axis, Value
from export.tune.settings import as_toml
from export.tune.space import DIM, Space, space_of
from models import MODELS
from models.fields import Field

NUMBERS = (0.0, 0.0, -1.4, -0.6, 0.1, 0.7, 1.3)
FIELDS = (
    Field("history", 29, width=4, same_values_as="ad"),
    Field("site", 41),
    Field("price", 7, values=NUMBERS),
    Field("ad", 29, role="candidate"),
)
SMALL = {"hidden_units": (16, 12, 8), "bottom_units": (16, 8), "trees": 30}
ROWS, CLICKS = 20_000, 3_000


def a_space(model: str, hyperparameters: dict[str, object] | None = None, **training: object) -> Space:
    network = build_from_fields(model, FIELDS, hyperparameters or {})
    return space_of(model, network, hyperparameters or {}, TrainChoice(**training), rows=ROWS, clicks=CLICKS)


def a_point(space: Space, draw: np.random.Generator) -> dict[str, Value]:
    """Ends of axes and what lies between, by chance."""
    values: dict[str, Value] = {}
    for axis in space.axes:
        if axis.exists(values):
            values[axis.name] = drawn(axis, draw)
    return values


def drawn(axis: Axis, draw: np.random.Generator) -> Value:
    if axis.choices:
        return axis.choices[int(draw.integers(len(axis.choices)))]
    if isinstance(axis.default, int):
        return int(draw.integers(int(axis.low), int(axis.high) + 1))
    return float(draw.choice([axis.low, axis.high, (axis.low + axis.high) / 2]))


@pytest.mark.parametrize("model", MODELS)
def test_the_middle_is_the_defaults_and_every_point_can_be_built(model: str) -> None:
    space = a_space(model)
    assert space.settings(space.defaults()) == {}
    assert space.config({}) == TrainChoice().config(ROWS, CLICKS, model=model)
    draw = np.random.default_rng(0)
    for _ in range(3):
        settings = space.settings(a_point(space, draw))
        space.config(settings)  # refuses what has no effect, and what is out of its range
        build_from_fields(model, FIELDS, space.split(settings)[0])
        assert tomllib.loads(as_toml(model, settings, ["found"])) == {model: settings}


TABLES = {"embedding_optimizer", "ftrl_alpha", "ftrl_l2"}
WEIGHTS, VECTORS = {"linear_l2_times"} | TABLES, {"embedding_l2_times", "dim_doublings"} | TABLES
LAYERS = {"width_halvings", "hidden_layers", "dropout"}


@pytest.mark.parametrize(
    ("model", "axes"),
    [
        ("lr", WEIGHTS),
        ("fm", WEIGHTS | VECTORS),
        ("fwfm", VECTORS),
        ("dnn", VECTORS | LAYERS),
        ("deepfm", WEIGHTS | VECTORS | LAYERS),
        ("dcn_v2", VECTORS | LAYERS | {"cross_layers", "structure"}),
        ("dcn_v3", VECTORS | {"dropout", "exponential_layers", "linear_layers", "second_half"}),
        ("gbdt_lr", WEIGHTS | {"trees", "depth"}),
    ],
)
def test_a_model_has_the_axes_of_what_it_is_made_of(model: str, axes: set[str]) -> None:
    assert {axis.name for axis in a_space(model).axes} == axes | {"learning_rate_times", "batch_doublings"}


def test_what_is_given_is_no_axis_and_stays() -> None:
    space = a_space("deepfm", {"dim": 6, "dropout": 0.1}, learning_rate=0.01, batch_size=100)
    names = {axis.name for axis in space.axes}
    assert not {"dim_doublings", "dropout", "learning_rate_times", "batch_doublings"} & names
    hyperparameters, choice = space.split({"hidden_units": [9]})
    assert hyperparameters == {"dim": 6, "dropout": 0.1, "hidden_units": [9]}
    assert (choice.given["learning_rate"], choice.given["batch_size"]) == (0.01, 100)
    fixed = {axis.name for axis in a_space("deepfm", embedding_l2=0.01).axes}
    assert not {"embedding_l2_times", "embedding_optimizer", "ftrl_alpha"} & fixed
    followed = {axis.name for axis in a_space("lr", embedding_optimizer="ftrl", optimizer="ftrl").axes}
    assert followed == {"batch_doublings", "ftrl_alpha", "ftrl_l2"}


def test_a_penalty_on_embeddings_is_none_on_weights() -> None:
    """--embedding-l2 alone holds for both, so a point that moves one names the other."""
    space = a_space("fm")
    usual = space.config({})
    settings = space.settings({**space.defaults(), "embedding_l2_times": 4.0})
    assert settings == {"embedding_l2": 4 * usual.embedding_l2, "linear_l2": usual.linear_l2}


def test_the_step_size_follows_the_batch() -> None:
    space = a_space("lr")
    usual = space.config({})
    settings = space.settings({**space.defaults(), "batch_doublings": 2})
    assert settings == {"batch_size": 4 * usual.batch_size}
    assert space.config(settings).learning_rate == pytest.approx(2 * usual.learning_rate)
    slower = space.settings({**space.defaults(), "batch_doublings": 2, "learning_rate_times": 0.25})
    assert slower["learning_rate"] == pytest.approx(usual.learning_rate / 2, rel=0.005)


def test_ftrl_has_steps_of_its_own_in_place_of_penalties() -> None:
    space = a_space("deepfm")
    values = {**space.defaults(), "embedding_optimizer": "ftrl", "ftrl_alpha": 0.05, "ftrl_l2": 1.0}
    settings = space.settings(values)
    assert settings == {"embedding_optimizer": "ftrl", "ftrl_alpha": 0.05}
    assert space.config(settings).ftrl_alpha == 0.05


@pytest.mark.parametrize(
    ("model", "fixed", "doublings", "dim"),
    [("bst", {"heads": 4}, -1, 4), ("bst", {"heads": 4}, 1, 20), ("xdeepint", {"sub_spaces": 16}, -1, 16)],
)
def test_a_dimension_is_one_that_heads_and_sub_spaces_divide(
    model: str, fixed: dict[str, object], doublings: int, dim: int
) -> None:
    space = a_space(model, fixed)
    settings = space.settings({**space.defaults(), DIM.name: doublings})
    assert settings["dim"] == dim
    build_from_fields(model, FIELDS, space.split(settings)[0])


def test_a_dimension_is_looked_for_between_the_least_and_the_most() -> None:
    def found(dim: int, least: int = 2, most: int = 12) -> int:
        return possible_dim("bst", FIELDS, {"heads": 8}, dim, least=least, most=most)

    assert (found(4), found(7), found(2), found(9), found(6)) == (4, 8, 4, 8, 4)
    assert found(5, least=5, most=7) == 5  # where it is built it is refused
