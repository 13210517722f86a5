"""A store that suddenly knows hardly any user is told from one that never knew many."""

from __future__ import annotations

import random
from itertools import accumulate

import pytest

from service.features.known_share import LOOKUPS_JUDGED, KnownShare


def looked_up(share: KnownShare, *known: float) -> list[bool]:
    """Whether users count as lost after each LOOKUPS_JUDGED lookups, of which these shares were known."""
    told = []
    for each in known:
        for _ in range(LOOKUPS_JUDGED // 10):
            share.count(int(each * 10), 10)
        told.append(share.is_lost)
    return told


@pytest.mark.parametrize(
    ("known", "told"),
    [
        ([0.9, 0.9, 0.0, 0.0, 0.9], [False, False, True, True, False]),
        ([0.9, 0.5, 0.4, 0.3, 0.9], [False, False, True, True, False]),
        ([0.9, 0.8, 0.7, 0.6, 0.5], [False] * 5),
        ([0.1, 0.1, 0.1], [False] * 3),
        ([0.0, 0.0, 0.5, 0.1], [False, False, False, True]),
        ([1.0, 0.6, 1.0], [False] * 3),
    ],
)
def test_a_loss_is_judged_by_what_was_usual(known: list[float], told: list[bool]) -> None:
    assert looked_up(KnownShare(0.5), *known) == told


def test_chance_is_no_loss() -> None:
    draw = random.Random(0)
    for usual in (0.02, 0.2, 0.3, 0.6, 0.95):
        share = KnownShare(0.5)
        for _ in range(200 * LOOKUPS_JUDGED):
            share.count(draw.random() < usual, 1)
            assert not share.is_lost


def test_what_has_become_usual_is_no_loss() -> None:
    """New users come little by little."""
    slowly = accumulate([0.9, *[-0.1] * 7])
    share = KnownShare(0.5)
    assert looked_up(share, *[each for level in slowly for each in [round(level, 1)] * 10]) == [False] * 80


def test_it_forgets_at_a_reload(caplog: pytest.LogCaptureFixture) -> None:
    share = KnownShare(0.5)
    assert looked_up(share, 0.9, 0.2, 0.2) == [False, True, True]
    assert caplog.text.count("knows 100 of the last 500 users that were looked up, where 90% were usual") == 1
    share.forget()
    assert looked_up(share, 0.2, 0.2) == [False, False]


def test_a_store_that_knows_nobody_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    assert looked_up(KnownShare(0.5), 0.0, 0.0, 0.0) == [False] * 3
    assert caplog.text.count("the feature store knows none of the 500 users that were looked up") == 1


def test_any_loss_may_be_allowed() -> None:
    assert looked_up(KnownShare(1.0), 0.9, 0.0) == [False, False]
