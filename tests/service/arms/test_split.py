"""The split: its shares, its stickiness, what a change of weights moves, and what is refused."""

from __future__ import annotations

import json
import math
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.arms.split import Arm, ArmSpec, ArmTable, parse_arm
from service.errors import BadConfiguration, UnknownArm
from service.quality import FULL, NO_BID

KEYS = [f"u{number}" for number in range(20_000)]
NO_PREDICTOR = cast(Any, None)  # the table never looks at it


def table(weights: Mapping[str, float], salt: str = "") -> ArmTable:
    return ArmTable([Arm(name, weight, NO_PREDICTOR) for name, weight in weights.items()], salt)


def dealt(weights: Mapping[str, float], salt: str = "", keys: list[str] = KEYS) -> list[str]:
    arms = table(weights, salt)
    return [arms.choose(None, key).name for key in keys]


def chi_square(counts: Mapping[str, int], weights: Mapping[str, float]) -> float:
    """Pearson's statistic of the counts against the shares that the weights promise."""
    rows, total = sum(counts.values()), sum(weights.values())
    expected = {name: rows * weight / total for name, weight in weights.items() if weight > 0.0}
    assert set(counts) <= set(expected)
    return sum((counts.get(name, 0) - count) ** 2 / count for name, count in expected.items())


# 99.9 % points of chi-square for 1, 2, 3 degrees of freedom; the keys are fixed, so a pass stays a pass.
@pytest.mark.parametrize(
    ("weights", "limit"),
    [
        ({"a": 1.0, "b": 1.0}, 10.83),
        ({"a": 90.0, "b": 10.0}, 10.83),
        ({"a": 0.05, "b": 0.95}, 10.83),
        ({"a": 5.0, "b": 3.0, "c": 2.0}, 13.82),
        ({"a": 1.0, "unused": 0.0, "b": 2.0, "c": 3.0}, 13.82),
        ({"a": 97.0, "b": 1.0, "c": 1.0, "d": 1.0}, 16.27),
    ],
)
@pytest.mark.parametrize("salt", ["", "autumn"])
def test_each_arm_gets_its_share_of_the_keys(weights: dict[str, float], limit: float, salt: str) -> None:
    assert chi_square(Counter(dealt(weights, salt)), weights) < limit


def test_without_a_key_the_draw_is_random_with_the_same_shares() -> None:
    weights = {"a": 7.0, "off": 0.0, "b": 3.0}
    arms = table(weights)
    random.seed(3)
    counts = Counter(arms.choose(None, key).name for key in [None, ""] * 10_000)
    assert chi_square(counts, weights) < 10.83


def test_a_key_stays_with_its_arm_in_another_process() -> None:
    keys = [*KEYS[:200], "Åsa", "", "用户"]
    code = (
        "import sys, json; from service.arms.split import Arm, ArmTable\n"
        "arms = ArmTable([Arm('a', 2.0, None), Arm('b', 1.0, None)], 'spring')\n"
        "print(json.dumps([arms.choose(None, key).name for key in json.loads(sys.argv[1]) if key]))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code, json.dumps(keys)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[3],
        env={"PYTHONHASHSEED": "77"},
        check=True,
    )
    assert json.loads(answer.stdout) == dealt({"a": 2.0, "b": 1.0}, "spring", [key for key in keys if key])


def test_the_split_is_the_one_that_was_released() -> None:
    """A change of this list moves users between the arms of experiments that are running."""
    assert "".join(dealt({"a": 1.0, "b": 1.0, "c": 2.0}, "released", KEYS[:40])) == (
        "baacbccabccccbcabccbcaaabccbcccccccbccac"
    )


def moves(before: Mapping[str, float], after: Mapping[str, float]) -> Counter[tuple[str, str]]:
    return Counter(pair for pair in zip(dealt(before), dealt(after), strict=True) if pair[0] != pair[1])


@pytest.mark.parametrize("arm", ["a", "b", "c"])
def test_raising_one_weight_moves_keys_into_that_arm_only_and_no_more_than_its_share_grows(arm: str) -> None:
    before = {"a": 5.0, "b": 3.0, "c": 2.0}
    moved = moves(before, {**before, arm: before[arm] + 2.0})
    assert {target for _, target in moved} == {arm}
    grown = (before[arm] + 2.0) / 12.0 - before[arm] / 10.0
    assert sum(moved.values()) == pytest.approx(grown * len(KEYS), rel=0.1)


def test_a_new_arm_takes_keys_and_nothing_else_moves() -> None:
    moved = moves({"a": 5.0, "b": 3.0}, {"a": 5.0, "new": 1.0, "b": 3.0})
    assert {target for _, target in moved} == {"new"}


def test_order_and_scale_of_the_weights_move_no_key() -> None:
    assert not moves({"a": 90.0, "b": 10.0, "c": 5.0}, {"c": 0.05, "b": 0.1, "a": 0.9})


def test_two_salts_deal_independently() -> None:
    weights = {"a": 1.0, "b": 1.0}
    pairs = Counter(zip(dealt(weights, "first"), dealt(weights, "second"), strict=True))
    quarter = len(KEYS) / 4
    assert sum((pairs[pair] - quarter) ** 2 / quarter for pair in pairs) < 16.27
    assert len(pairs) == 4


@given(
    st.lists(st.floats(min_value=0.0, allow_nan=False, allow_infinity=False), min_size=1, max_size=5).filter(
        any
    ),
    st.one_of(st.none(), st.text(st.characters())),
)
def test_any_weights_and_any_key_choose_an_arm_that_has_a_weight(
    weights: list[float], key: str | None
) -> None:
    arms = table({f"arm{number}": weight for number, weight in enumerate(weights)})
    assert arms.choose(None, key).weight > 0.0


def test_weights_far_apart() -> None:
    assert set(dealt({"huge": 1.7e308, "also": 1.7e308, "tiny": 5e-324}, keys=KEYS[:100])) == {"huge", "also"}


def test_a_pinned_arm_is_served_whatever_its_weight_and_the_key() -> None:
    arms = table({"a": 1.0, "shadow": 0.0})
    for name in ("a", "shadow"):
        assert arms.choose(name, "u1").name == name
    assert arms.choose(None, "u1").name == "a"


@pytest.mark.parametrize("name", ["b", "", "A"])
def test_an_unknown_arm_is_refused_and_the_known_ones_named(name: str) -> None:
    with pytest.raises(UnknownArm, match=f"'X-Arm' must be one of a, shadow \\(got '{name}'\\)"):
        table({"a": 1.0, "shadow": 0.0}).choose(name, None)


def test_a_control_arm_that_is_killed_too_scores_nothing() -> None:
    arms = [Arm(name, 1.0, NO_PREDICTOR) for name in "abc"]
    assert ArmTable(arms, killed={"a"}, control="b").choose("a", None) is arms[1]
    table = ArmTable(arms, killed={"a", "b"}, control="b")
    for name in "ab":
        answering = table.choose(name, None)
        assert (answering.name, answering.quality) == ("b", NO_BID)
    assert table.choose("c", None) is arms[2]
    assert table.living == (arms[2],)
    assert {(arm.name, arm.quality) for arm in table.answering} == {("b", NO_BID), ("c", FULL)}


def test_a_killed_arm_keeps_its_keys_and_the_first_answers_them_however_they_are_chosen() -> None:
    arms = [Arm(name, weight, NO_PREDICTOR) for name, weight in {"a": 2.0, "b": 1.0, "c": 1.0}.items()]
    before, after = ArmTable(arms), ArmTable(arms, killed={"b"})
    for key in KEYS:
        chosen = before.choose(None, key)
        assert after.choose(None, key) is (arms[0] if chosen is arms[1] else chosen)
    assert after.choose("b", "any key") is arms[0]
    assert "b" not in {after.choose(None, None).name for _ in range(500)}
    assert after.living == (arms[0], arms[2])
    assert after.arms == tuple(arms)


@pytest.mark.parametrize(
    ("names_and_weights", "message"),
    [
        ([], "'arms' must be one or more"),
        ([("a", 1.0), ("a", 2.0)], "got 'a' twice"),
        ([("a", -1.0)], "'weight' of arm a must be a finite number from 0"),
        ([("a", math.nan)], "'weight' of arm a must be a finite number from 0"),
        ([("a", math.inf)], "'weight' of arm a must be a finite number from 0"),
        ([("a", 0.0), ("b", 0.0)], "got 0 for a, b"),
    ],
)
def test_arms_that_cannot_be_split_between_are_refused(
    names_and_weights: list[tuple[str, float]], message: str
) -> None:
    with pytest.raises(BadConfiguration, match=message):
        ArmTable([Arm(name, weight, NO_PREDICTOR) for name, weight in names_and_weights])


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("control=artifacts/A:90", ArmSpec("control", "artifacts/A", 90.0)),
        ("control=artifacts/A", ArmSpec("control", "artifacts/A", 1.0)),
        ("control=A:0", ArmSpec("control", "A", 0.0)),
        ("b=A:2.5e-3", ArmSpec("b", "A", 0.0025)),
        ("b=C:/bundles/A:90", ArmSpec("b", "C:/bundles/A", 90.0)),
        ("b=C:/bundles/A", ArmSpec("b", "C:/bundles/A", 1.0)),
        ("b=C:\\bundles\\A", ArmSpec("b", "C:\\bundles\\A", 1.0)),
        ("b=a=b:1:1", ArmSpec("b", "a=b:1", 1.0)),
    ],
)
def test_an_arm_as_it_is_typed(text: str, spec: ArmSpec) -> None:
    assert parse_arm(text) == spec


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "'arm' must be NAME=FOLDER"),
        ("artifacts/A", "'arm' must be NAME=FOLDER"),
        ("control=", "'arm' must be NAME=FOLDER"),
        ("=A", "'arm' must have a name"),
        ("my arm=A", "'arm' must have a name"),
        ("a/b=A", "'arm' must have a name"),
        ("control=:90", "'arm' must name a folder"),
        ("control=A:9O", "'weight' of arm control must be a finite number from 0 \\(got '9O'\\)"),
        ("control=A:", "'weight' of arm control must be"),
        ("control=A:-1", "'weight' of arm control must be"),
        ("control=A:nan", "'weight' of arm control must be"),
        ("control=A:inf", "'weight' of arm control must be"),
    ],
)
def test_a_mistyped_arm_is_refused_in_one_line(text: str, message: str) -> None:
    with pytest.raises(BadConfiguration, match=message) as refusal:
        parse_arm(text)
    assert "\n" not in str(refusal.value)
