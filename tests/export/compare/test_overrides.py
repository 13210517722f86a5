"""What is said of all models and of single ones reaches those it is meant for, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from export.compare.overrides import check_overrides, read_overrides, settle
from export.compare.plan import Overrides
from export.errors import ExportError
from export.train.choices import TrainChoice


def test_the_command_line_goes_before_the_file_and_one_before_all(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text("dim = 6\nepochs = 3\n[fwfm]\ndim = 7\nlearning_rate = 0.01\n[deep_fwfm]\ndim = 8\n")
    overrides = read_overrides(file, [("epochs", 4), ("deep_fwfm.dim", 9), ("deep_fwfm.dropout", 0.0)])
    check_overrides(overrides, ["lr", "fwfm", "deep_fwfm"])
    training = TrainChoice(epochs=2, seed=5)
    common = {"dim": 5, "dropout": 0.3, "hidden_units": [8]}

    hyperparameters, choice = settle("fwfm", common, overrides, training)
    assert hyperparameters == {"dim": 7}
    assert choice == TrainChoice(epochs=4, seed=5, learning_rate=0.01)
    hyperparameters, choice = settle("deep_fwfm", common, overrides, training)
    assert hyperparameters == {"dim": 9, "dropout": 0.0, "hidden_units": [8]}
    assert choice == TrainChoice(epochs=4, seed=5)
    hyperparameters, choice = settle("lr", common, overrides, training)
    assert hyperparameters == {}
    assert choice == TrainChoice(epochs=4, seed=5)


def test_without_any_the_model_and_the_training_are_as_they_come() -> None:
    assert settle("deep_fwfm", {}, read_overrides(None, []), TrainChoice()) == ({}, TrainChoice())


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (Overrides(own={"deepfwfm": {"dim": 3}}), "'deepfwfm'"),
        (Overrides(own={"lr": {"dim": 3}}), "'dim'"),
        (Overrides(own={"lr": {"seed": 3}}), "'seed'"),
        (Overrides(shared={"dimm": 3}), "'dimm'"),
        (Overrides(shared={"dropout": 0.1}), "'dropout'"),  # of neither lr nor fwfm
    ],
)
def test_a_name_that_nothing_takes_is_refused(overrides: Overrides, said: str) -> None:
    with pytest.raises(ExportError, match=f"got {said}"):
        check_overrides(overrides, ["lr", "fwfm"])


def test_values_of_a_wrong_type_or_range_are_refused() -> None:
    with pytest.raises(ExportError, match=r"'lr'.*epochs"):
        settle("lr", {}, Overrides(own={"lr": {"epochs": "three"}}), TrainChoice())
    _, choice = settle("lr", {}, Overrides(own={"lr": {"epochs": 0}}), TrainChoice())
    with pytest.raises(ExportError, match="'epochs' must be at least 1"):
        choice.config(1000)


def test_a_file_that_is_no_toml_is_named(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text("dim: 8\n")
    with pytest.raises(ExportError, match=r"settings\.toml"):
        read_overrides(file, [])
