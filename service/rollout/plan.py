"""What a canary is to do: its steps, when it goes on, and what its gates tolerate; it knows no arm."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from service.errors import BadConfiguration

STEPS = (1.0, 5.0, 25.0, 100.0)
MOST_STEPS = 20

Seconds = Annotated[float, Meta(ge=0.0, le=1e7)]
Count = Annotated[int, Meta(ge=0, le=10**12)]
Margin = Annotated[float, Meta(ge=0.0, le=1e3)]


class Plan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Percentages of the traffic of both arms, which rise, and what lets a canary go on to the next.

    A step ends after `hold_seconds`, or once `impressions` of the arm are known with their clicks (0: never),
    and not before the arm has answered `requests` in it. Before it has all the traffic `known_clicks` of it
    must be judged, as independent ones, and before it has a part, that part of them. `alpha` is the chance
    that gates take back an arm with which nothing is wrong, over all gates, steps and looks. The other
    numbers are what they tolerate.
    """

    steps: Annotated[tuple[float, ...], Meta(min_length=1, max_length=MOST_STEPS)] = STEPS
    hold_seconds: Seconds = 3600.0
    impressions: Count = 0
    requests: Annotated[int, Meta(ge=1, le=10**12)] = 1000
    known_clicks: Count = 500
    alpha: Annotated[float, Meta(gt=0.0, le=0.5)] = 0.01
    # Share of requests that may fail, whatever those of control do.
    errors: Annotated[float, Meta(gt=0.0, lt=1.0)] = 0.001
    # How much slower a quantile may be: both together.
    slower_ms: Margin = 5.0
    slower: Margin = 0.2
    # Population stability index.
    psi: Annotated[float, Meta(gt=0.0)] = 0.25
    # Shares of control's.
    pcoc: Annotated[float, Meta(gt=0.0, le=10.0)] = 0.1
    logloss: Margin = 0.01
    clicks: Annotated[float, Meta(ge=0.0, lt=1.0)] = 0.1


def check_plan(plan: Plan) -> None:
    """Raises BadConfiguration for steps that do not rise, from below 100 % to at most 100 %."""
    steps = plan.steps
    if not steps or not all(low < high for low, high in zip((0.0, *steps), (*steps, 100.1), strict=True)):
        raise BadConfiguration(
            f"'steps' must be percentages above 0 that rise, to 100 at most (got {[*steps]}); "
            "for example 1,5,25,100"
        )
    if steps[0] >= 100.0:
        raise BadConfiguration(
            f"'steps' must begin below 100 (got {[*steps]}), or the canary has nothing to be compared with; "
            "for example 50,100"
        )
