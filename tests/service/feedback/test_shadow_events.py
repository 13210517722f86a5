"""PCOC and LogLoss of a shadow are those of the impressions that it has scored, however events come."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.feedback.shadow_events import ARM, CLICKS, SHADOW, TAKEN_OFF, UNCLICKED, ShadowEvents
from service.feedback.shadow_table import ShadowTable
from service.metrics.families import Metrics
from tests.running import read_metrics

NOW_MS = 1_800_000_000_000


def pctr(log_odds: float) -> float:
    return 1.0 / (1.0 + math.exp(-log_odds))


# Of each candidate: whether it was shown and clicked, which came first, log-odds of both, and whether the
# shadow has scored it.
CANDIDATES = st.lists(
    st.tuples(
        st.booleans(), st.booleans(), st.booleans(), st.floats(-9.0, 4.0), st.floats(-9.0, 4.0), st.booleans()
    ),
    max_size=30,
)


@given(CANDIDATES, st.integers(1, 9))
def test_sums_are_those_of_the_impressions_that_both_scored(
    candidates: list[tuple[bool, bool, bool, float, float, bool]], at_once: int
) -> None:
    table, metrics = ShadowTable(1 << 10, 60), Metrics()
    events = ShadowEvents(table, ["control", "candidate"], metrics)
    tokens = np.random.default_rng(0).integers(1, 2**64, len(candidates), np.uint64)
    scored = np.array([each[5] for each in candidates], bool)
    said = np.array([each[4] for each in candidates], float)
    table.put(tokens[scored], said[scored], 1, NOW_MS // 1000)
    sent = [(place, False) for place, each in enumerate(candidates) if each[0]]
    clicks = [(place, True) for place, each in enumerate(candidates) if each[1]]
    late = [each for each in clicks if not candidates[each[0]][2]]
    sent = [each for each in clicks if each not in late] + sent + late
    for start in range(0, len(sent), at_once):
        some = sent[start : start + at_once]
        places = np.array([place for place, _ in some])
        own = np.array([candidates[place][3] for place in places], np.float32)
        events.count("control", tokens[places], own, np.array([click for _, click in some]), NOW_MS)
    found = read_metrics(metrics.exposition()[0].decode())

    def total(name: str, **labels: str) -> float:
        given = {"arm": "control", "shadow": "candidate", **labels}
        text = ",".join(f'{key}="{given[key]}"' for key in sorted(given))
        return found.get(f"bidlight_shadow_{name}_total{{{text}}}", 0.0)

    shown = [each for each in candidates if each[5] and each[0]]
    clicked = [each for each in shown if each[1]]
    assert total("events", type="impression") == len(shown)
    assert total("events", type="click") == len(clicked)
    for whose, place in ((ARM, 3), (SHADOW, 4)):
        predicted = sum(pctr(each[place]) for each in shown)
        assert total("shown_pctr", pctr=whose) == pytest.approx(predicted, rel=1e-5, abs=1e-9)
        terms = {term: total("loss", pctr=whose, term=term) for term in (UNCLICKED, TAKEN_OFF, CLICKS)}
        loss = sum(-math.log(pctr(e[place]) if e[1] else 1.0 - pctr(e[place])) for e in shown)
        found_loss = terms[UNCLICKED] - terms[TAKEN_OFF] + terms[CLICKS]
        assert found_loss == pytest.approx(loss, rel=1e-4, abs=1e-6)
