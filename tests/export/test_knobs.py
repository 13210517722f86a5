"""A knob that is declared once: what is derived from its field."""

from __future__ import annotations

import math
from argparse import Namespace
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from export.cli.knob_options import given_of, options_of
from export.cli.parser import Parser
from export.data.errors import LogError
from export.errors import ExportError
from export.knobs import (
    AT_LEAST_ONE,
    INNER_SHARE,
    NOT_NEGATIVE,
    POSITIVE,
    POSITIVE_SHARE,
    SHARE_BELOW_ONE,
    Limits,
    OneOf,
    Rule,
    UsedBy,
    check,
    choose,
    convert,
    declared,
    described,
    knob,
    knobs,
)


@dataclass(frozen=True, kw_only=True)
class Oven:
    """Every kind of field."""

    recipe: Path = field(metadata=described("what to bake", unit="FILE"))
    kind: Literal["gas", "electric"] = knob("electric", "how it heats")
    degrees: float = knob(180.0, "how hot it gets", POSITIVE)
    fan_speed: int = knob(2, "turns a second", NOT_NEGATIVE, used_by=UsedBy(("kind",), ("electric",)))
    minutes: int | None = knob(None, "how long it bakes", AT_LEAST_ONE, otherwise="the recipe's")
    shares: tuple[float, float] = knob(
        (0.5, 0.5), "of heat from above and below", POSITIVE_SHARE, "A,B",
        rule=Rule("two shares that add up to 1", lambda found: len(found) == 2 and sum(found) == 1),
    )  # fmt: skip
    racks: tuple[str, ...] = knob(("low",), "racks in use", OneOf(("low", "high")), "NAME,..")
    damping: float = knob(0.5, None, INNER_SHARE)
    note: str = "none"

    def __post_init__(self) -> None:
        check(self)


RECIPE = Path("bread")


@pytest.mark.parametrize(
    ("limits", "words", "inside", "outside"),
    [
        (AT_LEAST_ONE, "at least 1", (1, 9), (0, -1)),
        (POSITIVE, "above 0", (1e-9, 3), (0, -1)),
        (NOT_NEGATIVE, "at least 0", (0, 3), (-1e-9,)),
        (POSITIVE_SHARE, "above 0 and at most 1", (0.1, 1), (0, 1.1)),
        (SHARE_BELOW_ONE, "at least 0 and below 1", (0, 0.9), (-0.1, 1)),
        (INNER_SHARE, "above 0 and below 1", (0.1, 0.9), (0, 1)),
    ],
)
def test_limits_hold_and_say_so(
    limits: Limits, words: str, inside: tuple[float, ...], outside: tuple[float, ...]
) -> None:
    assert str(limits) == words
    assert all(map(limits.hold, inside))
    assert not any(map(limits.hold, (*outside, math.nan, math.inf, -math.inf)))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"kind": "coal"}, "'kind' must be one of gas, electric (got 'coal'); see Oven"),
        ({"degrees": 0.0}, "'degrees' must be above 0 (got 0.0)"),
        ({"minutes": 0}, "'minutes' must be at least 1, or None (got 0)"),
        ({"degrees": None}, "'degrees' must be above 0 (got None)"),
        ({"shares": (0.5, 0.4)}, "'shares' must be two shares that add up to 1 (got (0.5, 0.4))"),
        ({"racks": ("low", "top")}, "'racks' must be one of low, high (got ('low', 'top'))"),
        ({"damping": 1.0}, "'damping' must be above 0 and below 1 (got 1.0)"),
    ],
)
def test_a_value_out_of_its_range_is_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ExportError) as caught:
        Oven(recipe=RECIPE, **wrong)
    assert said in str(caught.value)


def test_the_error_is_that_of_the_room() -> None:
    with pytest.raises(LogError, match="'speed' must be above 0"):
        check(_Car(), LogError)


@dataclass(frozen=True)
class _Car:
    speed: float = knob(0.0, "kilometres an hour", POSITIVE)


def test_a_knob_that_nothing_chosen_uses_is_refused_even_as_the_default() -> None:
    assert choose(Oven, {"recipe": RECIPE, "fan_speed": 2}).fan_speed == 2
    said = r"'fan_speed' must be left out with kind gas \(got 2\); it is for electric"
    with pytest.raises(ExportError, match=said):
        choose(Oven, {"recipe": RECIPE, "kind": "gas", "fan_speed": 2})
    gas = Oven(recipe=RECIPE, kind="gas")
    assert choose(Oven, {"degrees": 90.0}, gas) == Oven(recipe=RECIPE, kind="gas", degrees=90.0)
    with pytest.raises(ExportError, match="'fan_speed'"):
        choose(Oven, {"fan_speed": 2}, gas)


def test_a_value_of_a_file_gets_the_type_of_its_field() -> None:
    fields = declared(Oven)
    assert convert(fields["shares"], [0.25, 0.75]) == (0.25, 0.75)
    assert convert(fields["minutes"], None) is None
    assert isinstance(convert(fields["degrees"], 200), float)
    for name, value, expected in (
        ("degrees", "hot", "a number above 0"),
        ("minutes", 2.5, "a whole number of at least 1"),
        ("kind", "coal", "one of gas, electric"),
        ("fan_speed", True, "a whole number of at least 0"),
    ):
        with pytest.raises(ExportError, match=f"'{name}' must be {expected} "):
            convert(fields[name], value)


def test_a_field_with_a_meaning_is_an_option() -> None:
    options = {option.name: option for option in options_of(Oven, default=Oven(recipe=RECIPE, degrees=99.5))}
    assert list(options) == [*knobs(Oven)]
    assert "damping" not in options
    assert options["kind"].kind == ("gas", "electric")
    assert {name: option.metavar for name, option in options.items()} == {
        "recipe": "FILE", "kind": None, "degrees": "X", "fan_speed": "N", "minutes": "N", "shares": "A,B",
        "racks": "NAME,..",
    }  # fmt: skip
    assert options["fan_speed"].flag == "--fan-speed"
    assert options["fan_speed"].help == "of electric: turns a second [2]"
    assert options["degrees"].help == "how hot it gets [99.5]"
    assert options["minutes"].help == "how long it bakes [the recipe's]"
    assert [option.name for option in options_of(Oven) if option.required] == ["recipe"]
    slow = Oven(recipe=RECIPE, degrees=90.0)
    others = options_of(Oven, "degrees", "kind", others={"slow": slow})
    assert [option.help for option in others] == [
        "how hot it gets [180; slow: 90]",
        "how it heats [electric]",
    ]


def test_a_subclass_shows_its_own_options_first() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Smoker(Oven):
        wood: str = knob("beech", "what smokes", unit="NAME")

    assert [option.name for option in options_of(Smoker)] == ["wood", *knobs(Oven)]


def test_what_was_given_is_told_from_what_was_not(capsys: pytest.CaptureFixture[str]) -> None:
    parser = Parser(prog="bake")
    for option in options_of(Oven):
        option.add_to(parser)
    found = parser.parse_args(["--recipe", "bread", "--shares", "0.25, 0.75", "--racks", "low,high"])
    given = {"recipe": RECIPE, "shares": (0.25, 0.75), "racks": ("low", "high")}
    assert given_of(Oven, found) == given
    assert given_of(Oven, Namespace()) == {}
    assert choose(Oven, given).degrees == 180.0
    for arguments, said in (
        (["--degrees", "0"], "must be a number above 0 (got '0')"),
        (["--minutes", "1.5"], "must be a whole number of at least 1 (got '1.5')"),
        (["--shares", "0.5,0.4"], "must be two shares that add up to 1 (got '0.5,0.4')"),
        (["--racks", "low,top"], "must be one of low, high (got 'top')"),
        (["--racks", ""], "must be one of low, high (got '')"),
        (["--kind", "coal"], "'coal'"),
    ):
        with pytest.raises(SystemExit):
            parser.parse_args(["--recipe", "bread", *arguments])
        assert said in capsys.readouterr().err
