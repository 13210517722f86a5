"""Which arms may be shadows, and of which requests: the same in every process, more for a larger share."""

from __future__ import annotations

import pytest

from service.arms.shadowing import KeyShare, Shadowing, parse_shadow, parse_shadows
from service.errors import BadConfiguration
from service.settings import Settings

ARMS = ["control", "treatment", "candidate"]
KEYS = [f"user-{number}" for number in range(4000)]


def held(share: float, salt: str = "", shadow: str = "candidate") -> set[str]:
    keys = KeyShare(salt, shadow, share)
    return {key for key in KEYS if keys.holds(key)}


def test_a_share_of_the_keys_is_scored_and_a_larger_one_keeps_them() -> None:
    small, large = held(0.1), held(0.3)
    assert small < large
    assert len(small) == pytest.approx(0.1 * len(KEYS), rel=0.15)
    assert len(large) == pytest.approx(0.3 * len(KEYS), rel=0.1)
    assert held(1.0) == set(KEYS)
    assert held(0.1) == small
    both = large & held(0.3, shadow="other")
    assert len(both) == pytest.approx(0.09 * len(KEYS), rel=0.3)


def test_these_keys_are_fixed() -> None:
    """Other processes and machines, of later versions too, choose the same ones."""
    keys = KeyShare("salt", "candidate", 0.5)
    assert [keys.holds(key) for key in ("a", "b", "c", "d", "e", "é", "\udc80")] == [
        False,
        True,
        False,
        False,
        True,
        False,
        False,
    ]


def test_requests_without_a_key_are_drawn() -> None:
    keys = KeyShare("", "candidate", 0.5)
    for none in (None, ""):
        assert {keys.holds(none) for _ in range(200)} == {True, False}


def test_settings_name_shadows() -> None:
    assert parse_shadow("candidate=control:0.1") == ("candidate", Shadowing("control", 0.1))
    assert parse_shadows(["candidate=control:1", "treatment=control:0.5"], ARMS, "control") == {
        "candidate": Shadowing("control", 1.0),
        "treatment": Shadowing("control", 0.5),
    }


@pytest.mark.parametrize(
    ("shadows", "message"),
    [
        (["candidate"], "must be NAME=ARM:SHARE .got 'candidate'"),
        (["candidate=control"], "must be NAME=ARM:SHARE"),
        (["candidate=control:much"], "must be NAME=ARM:SHARE"),
        (["candidate=control:0"], "'share' of shadow candidate must be above 0 and at most 1 .got 0.0"),
        (["candidate=control:nan"], "'share' of shadow candidate must be above 0"),
        (["candidate=control:10"], "'share' of shadow candidate must be above 0"),
        (["nobody=control:1"], "must name arms, control, treatment, candidate .got 'nobody'"),
        (["candidate=nobody:1"], "must name arms, control, treatment, candidate .got 'nobody'"),
        (["candidate=candidate:1"], "which is the same"),
        (["candidate=treatment:1", "treatment=control:1"], "which is a shadow too"),
        (["candidate=control:1", "candidate=treatment:1"], "must be named once .got 'candidate' twice"),
        (["control=treatment:1"], "must be another arm than the control arm, control"),
    ],
)
def test_what_cannot_be_a_shadow_is_refused(shadows: list[str], message: str) -> None:
    with pytest.raises(BadConfiguration, match=message):
        parse_shadows(shadows, ARMS, "control")


def test_nobody_would_learn_of_a_shadow_without_metrics() -> None:
    with pytest.raises(ValueError, match="'metrics' must be on with shadow"):
        Settings(arms=("a=A", "b=B"), shadows=("b=a:1",), metrics="off")
