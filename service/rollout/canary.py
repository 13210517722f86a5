"""A canary on its way: from counts to the next step, or back; it knows no service and changes nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from service.rollout.counts import PairCounts
from service.rollout.fast import LEAST_REQUESTS, FastGates
from service.rollout.gates import Gate, Reading
from service.rollout.plan import Plan
from service.rollout.slow import Feedback, SlowGates

# Gates that are judged by evidence; that of pCTRs is not.
TESTS = len(Gate) - 1


class Verdict(StrEnum):
    """What becomes of a canary."""

    HELD = "held"
    """It stays at its step for now."""
    RAISED = "raised"
    FINISHED = "finished"
    """Its last step is reached, or has ended if that is below 100 %."""
    TAKEN_BACK = "taken_back"
    ENDED = "ended"
    """A command has ended it, and weights are as they are."""


@dataclass(frozen=True)
class Ruling:
    """What becomes of it, why, and the gate that has failed, if one has."""

    verdict: Verdict
    words: str
    gate: Gate | None = None


class Canary:
    """A canary by a plan since `now` (seconds, of a clock that never goes back).

    `counts` are those of both arms by then; `bounds` those of the buckets of latency. Each look takes the
    counts by then, and sees what was added.
    """

    def __init__(self, plan: Plan, counts: PairCounts, bounds: Sequence[float], now: float) -> None:
        self.plan = plan
        self.step = 0
        self._seen = self._at_step = counts
        self._began = now
        self._impressions_at_step = 0.0
        limit = math.log(TESTS / plan.alpha)
        self._fast, self._slow = FastGates(plan, bounds, limit), SlowGates(plan, limit)
        self.requests = 0.0
        """Those that the arm has answered, or failed, since it began."""

    @property
    def share(self) -> float:
        """The part of both arms' traffic that it is to have now, from 0 to 1."""
        return self.plan.steps[self.step] / 100.0

    @property
    def readings(self) -> list[Reading]:
        """What all gates say."""
        return [*self._fast.readings(), *self._slow.readings()]

    def learn(self, canary: Feedback, control: Feedback) -> None:
        """Take feedback into account, of tokens that were made in the same time."""
        self._slow.add(canary, control)

    def look(self, counts: PairCounts, now: float) -> Ruling:
        """What becomes of it, given the counts of both arms by now."""
        added, self._seen = counts.since(self._seen), counts
        self.requests += added.canary.requests
        self._fast.look(added, now)
        for reading in self.readings:
            if reading.has_failed:
                return Ruling(Verdict.TAKEN_BACK, reading.words, reading.gate)
        waits_for = self.waits_for(now)
        if waits_for:
            return Ruling(Verdict.HELD, waits_for)
        return self._go_on(now)

    def waits_for(self, now: float) -> str:
        """What it waits for before it goes on; empty: for nothing."""
        requests = self._seen.canary.requests - self._at_step.canary.requests
        if requests < self.plan.requests:
            return f"it has answered {requests:.0f} of {self.plan.requests} requests in this step"
        theirs, least = self._seen.control.requests - self._at_step.control.requests, LEAST_REQUESTS
        if theirs < min(self.plan.requests, least):
            return f"control has answered {theirs:.0f} requests in this step, too few to compare it with"
        words = self._lasts_for(now)
        return words or self._lacks_clicks()

    def _lasts_for(self, now: float) -> str:
        """How long the step lasts, if it is not over."""
        held = now - self._began
        shown = self._slow.impressions - self._impressions_at_step
        if held >= self.plan.hold_seconds or 0 < self.plan.impressions <= shown:
            return ""
        words = f"the step holds for {held:.0f} of {self.plan.hold_seconds:g} s"
        if self.plan.impressions:
            words += f", or until {self.plan.impressions} impressions are judged ({shown:.0f} are)"
        return words

    def _lacks_clicks(self) -> str:
        """What clicks do not say yet before the arm has more traffic, if it is to have more."""
        plan = self.plan
        if self.step == len(plan.steps) - 1:
            return ""
        following = plan.steps[self.step + 1]
        clicks, least = self._slow.clicks, plan.known_clicks * following / 100.0
        if clicks < least:
            return (
                f"{clicks:.0f} independent clicks of it are judged, and {least:.0f} must be before it has "
                f"{following:g} % ('known_clicks')"
            )
        doubt = self._slow.doubt
        if doubt is not None:
            return f"{doubt.gate} knows {doubt.level:.2f} of what takes it back: {doubt.words}"
        return ""

    def _go_on(self, now: float) -> Ruling:
        """Begin the next step, if there is one."""
        steps = self.plan.steps
        if self.step == len(steps) - 1:
            return Ruling(
                Verdict.FINISHED, f"all gates have held; it keeps {steps[-1]:g} % of the traffic of both"
            )
        self.step += 1
        self._at_step, self._began = self._seen, now
        self._impressions_at_step = self._slow.impressions
        if steps[self.step] >= 100.0:
            return Ruling(Verdict.FINISHED, "all gates have held; it has all the traffic of both")
        self._fast.begin_step()
        return Ruling(Verdict.RAISED, f"all gates have held at {steps[self.step - 1]:g} %")
