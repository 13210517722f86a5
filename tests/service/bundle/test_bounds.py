"""The page about bundles has the bounds and the operators that the code has."""

from __future__ import annotations

import re

import pytest

from service.bundle import bounds
from service.bundle.bounds import MAX_NESTING, check_plain
from service.bundle.graph_check import OPERATORS
from tests.running import REPOSITORY

PAGE = (REPOSITORY / "docs" / "bundle.md").read_text()
NAMES = sorted(name for name in vars(bounds) if name.startswith("MAX_"))


def spellings(value: float) -> set[str]:
    """How the page may write a bound."""
    found = {f"{value:,}"}
    if isinstance(value, int):
        found |= {f"2^{value.bit_length()} - 1", f"{value >> 20} MiB", f"{-(-value >> 30)} GiB"}
    return found


@pytest.mark.parametrize("name", NAMES)
def test_the_page_has_the_bound(name: str) -> None:
    table = PAGE.partition("<!-- bounds -->")[2].partition("<!-- /bounds -->")[0]
    assert any(re.search(rf"[ ;|]{re.escape(text)}[ ;|]", table) for text in spellings(getattr(bounds, name)))


def test_the_page_has_the_operators() -> None:
    section = PAGE.partition("### Graphs")[2].partition("Nothing else")[0]
    plain, _, trees = section.partition("text:")[2].partition(" and of `ai.onnx.ml` ")
    assert set(re.findall(r"\w+", plain)) == OPERATORS[""]
    assert set(re.findall(r"\w+", trees)) == OPERATORS["ai.onnx.ml"]


def test_plain_values_are_bounded_in_depth_and_size() -> None:
    value: object = [2**63 - 1, -(2**63), "text", None, 0.5, {"a": [True]}]
    for _ in range(MAX_NESTING - 3):
        value = [value]
    check_plain(value, "x")
    for refused in ([[value]], 2**63, [{"a": -(2**63) - 1}]):
        with pytest.raises(ValueError, match="'x' must"):
            check_plain(refused, "x")
