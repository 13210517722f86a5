"""The values that each check accepts, and its errors for others."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from models.hyperparameters import check_at_least, check_choice, check_count, check_widths


@pytest.mark.parametrize(
    ("value", "expected"), [(1, "at least 2"), (2.0, "a whole number"), ("3", "a whole number")]
)
def test_a_count_is_whole_and_large_enough(value: Any, expected: str) -> None:
    check_count("layers", 2, 2, "say how many")
    with pytest.raises(ValueError, match=rf"^'layers' must be {expected} \(got {value!r}\); say how many$"):
        check_count("layers", value, 2, "say how many")


def test_a_count_may_be_numpys() -> None:
    count: Any = np.int64(2)
    check_count("layers", count, 2, "say how many")


@pytest.mark.parametrize("value", [True, None, [2]])
def test_what_is_no_number_is_no_count(value: Any) -> None:
    with pytest.raises(ValueError, match="'layers' must be a whole number"):
        check_count("layers", value, 0, "say how many")


@pytest.mark.parametrize("value", [-0.1, float("nan")])
def test_a_number_is_large_enough(value: float) -> None:
    check_at_least("rate", 0.0, 0, "it is a weight")
    with pytest.raises(ValueError, match=rf"^'rate' must be at least 0 \(got {value}\); it is a weight$"):
        check_at_least("rate", value, 0, "it is a weight")


def test_a_choice_is_one_of_its_values() -> None:
    check_choice("kind", "c", ("a", "b", "c"), "choose")
    with pytest.raises(ValueError, match=r"^'kind' must be a, b or c \(got 'd'\); choose$"):
        check_choice("kind", "d", ("a", "b", "c"), "choose")


@pytest.mark.parametrize("widths", [(3, 1), 3, (3, 2.5), "33", None])
def test_widths_are_whole_numbers_large_enough(widths: Any) -> None:
    check_widths("units", [2, 3], "of layers", least=2)
    with pytest.raises(ValueError, match=r"^'units' must be one number a layer, each at least 2 \(got"):
        check_widths("units", widths, "of layers", least=2)


def test_layers_may_be_asked_for() -> None:
    check_widths("units", (), "of layers")
    with pytest.raises(ValueError, match=r"each at least 1, and 1 or more \(got \(\)\); of layers$"):
        check_widths("units", (), "of layers", layers=1)
