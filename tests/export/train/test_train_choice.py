"""The command line's choice becomes a config: defaults that fit the log, and no number without effect."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from export.cli.options import TEACHERS, TRAINING, build_parser
from export.errors import ExportError
from export.knobs import OneOf, declared, knobs
from export.train.choices import TrainChoice
from export.train.config import TrainConfig

USED_BY = [name for name, one in knobs(TrainConfig).items() if one.knob.used_by]


def test_what_is_left_open_is_the_loops_default() -> None:
    config, default = TrainChoice().config(2048 * 200, 200_000), TrainConfig()
    assert {
        each.name: getattr(config, each.name) for each in fields(TrainConfig) if each.name in USED_BY
    } == {name: getattr(default, name) for name in USED_BY}
    assert config.patience == default.patience
    assert config.threads is None


def test_sampling_rows_makes_the_log_smaller() -> None:
    whole, drawn = (
        TrainChoice().config(1_000_000, 50_000),
        TrainChoice(negative_rate=0.1).config(1_000_000, 50_000),
    )
    assert (whole.batch_size, drawn.batch_size) == (2048, 512)
    assert (whole.embedding_l2, drawn.embedding_l2) == pytest.approx((1e-3, 1000 / 145_000))
    assert drawn.negative_rate == 0.1
    with pytest.raises(
        ExportError, match=r"'negative_rate' must leave an epoch one of 900 non-clicks or more"
    ):
        TrainChoice(negative_rate=1e-4).config(1_000, 100)


def test_a_model_whose_weights_are_the_logit_is_trained_faster_and_longer() -> None:
    linear, factors, deep = (TrainChoice().config(20_000, model=name) for name in ("lr", "fm", "deepfm"))
    assert linear.learning_rate > factors.learning_rate > deep.learning_rate
    assert linear.epochs > factors.epochs > deep.epochs
    assert deep == TrainChoice().config(20_000)


def test_weights_of_ids_have_a_weaker_penalty_unless_one_is_given_for_all() -> None:
    fitted = TrainChoice().config(20_000)
    assert (fitted.linear_l2, fitted.embedding_l2) == pytest.approx((3 / 20_000, 1e-2))
    of_fm = [TrainChoice().config(rows, model="fm").embedding_l2 for rows in (10_000, 20_000, 140_000)]
    assert of_fm == pytest.approx([7e-3, 3.5e-3, 5e-4])
    given = TrainChoice(embedding_l2=0.5).config(20_000)
    assert (given.linear_l2, given.embedding_l2) == (0.5, 0.5)
    both = TrainChoice(embedding_l2=0.5, linear_l2=0.0).config(20_000)
    assert (both.linear_l2, both.embedding_l2) == (0.0, 0.5)


def test_what_is_given_goes_before_what_fits_the_model() -> None:
    given = {"learning_rate": 0.5, "embedding_l2": 0.0, "epochs": 2, "batch_size": 32}
    config = TrainChoice(**given).config(20_000, model="lr")
    assert {name: getattr(config, name) for name in given} == given


@pytest.mark.parametrize(
    ("choice", "said"),
    [
        ({"click_weight": 3.0}, "'click_weight' must be left out with loss bce .* it is for weighted-bce"),
        ({"loss": "weighted-bce", "focal_gamma": 1.0}, "'focal_gamma'"),
        ({"calibration_weight": 1.0, "loss": "focal"}, "'calibration_weight'"),
        (
            {"ftrl_l1": 1.0},
            "with optimizer and embedding_optimizer adam and adam .* it is for ftrl or group-lasso",
        ),
        ({"group_lasso": 1.0, "embedding_optimizer": "ftrl"}, "'group_lasso'"),
        ({"warmup_steps": 5, "schedule": "constant"}, "'warmup_steps'"),
        ({"decay_rate": 0.5, "schedule": "constant"}, "'decay_rate'"),
        ({"l2": 0.1, "optimizer": "ftrl"}, "'l2'"),
        ({"embedding_l2": 0.1, "embedding_optimizer": "ftrl"}, "'embedding_l2'"),
        (
            {"learning_rate": 0.1, "optimizer": "ftrl", "embedding_optimizer": "group-lasso-ftrl"},
            "with optimizer and embedding_optimizer ftrl and group-lasso-ftrl .* it is for adam",
        ),
    ],
)
def test_a_number_that_would_have_no_effect_is_refused(choice: dict[str, Any], said: str) -> None:
    with pytest.raises(ExportError, match=said):
        TrainChoice(**choice).config(10_000)


def test_the_loop_refuses_a_sample_without_rows() -> None:
    """Options are checked on one row, before there is a log."""
    assert TrainChoice(negative_rate=0.3).config(rows=1).negative_rate == 0.3


def test_numbers_go_with_what_uses_them() -> None:
    config = TrainChoice(
        loss="focal",
        focal_gamma=1.0,
        optimizer="ftrl",
        ftrl_alpha=0.3,
        schedule="warmup-decay",
        warmup_steps=0,
    ).config(10_000)
    assert (config.focal_gamma, config.ftrl_alpha, config.warmup_steps) == (1.0, 0.3, 0)


def test_every_knob_of_the_choice_is_an_option_and_every_choice_is_offered() -> None:
    options = {option.name: option for option in (*TRAINING, *TEACHERS) if option.name != "teacher"}
    assert set(options) == set(knobs(TrainConfig))
    for name, one in declared(TrainConfig).items():
        if name in options and isinstance(one.limits, OneOf):
            assert options[name].kind == one.limits.names
    parsed = build_parser().parse_args(["train", "--work", "w", "--loss", "focal", "--focal-alpha", "0.4"])
    assert (parsed.loss, parsed.focal_alpha, parsed.focal_gamma) == ("focal", 0.4, None)


@pytest.mark.parametrize(
    "wrong",
    [
        {"loss": "hinge"},
        {"optimizer": "sgd"},
        {"embedding_optimizer": "sgd"},
        {"click_weight": 0.0},
        {"focal_alpha": 1.0},
        {"focal_gamma": -1.0},
        {"calibration_weight": float("inf")},
        {"negative_rate": 0.0},
        {"ftrl_alpha": 0.0},
        {"ftrl_beta": 0.0},
        {"ftrl_l1": -1.0},
        {"ftrl_l2": float("nan")},
        {"group_lasso": -0.1},
    ],
)
def test_a_setting_outside_its_range_is_named(wrong: dict[str, Any]) -> None:
    (name,) = wrong
    with pytest.raises(ExportError, match=f"'{name}' must be "):
        TrainConfig(**wrong)
