"""Decides on live calibrations, in one process of a service: it reads all counts, and writes what is served.

It knows neither bundles nor who runs it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from service.calibration.counts import BINS, Counts
from service.calibration.decision import Decision, LiveCalibration, Rules
from service.calibration.fit import NONE
from service.calibration.memory import LiveMemory, LiveState
from service.metrics.families import Metrics
from service.settings import Settings

logger = logging.getLogger("bidlight")


@dataclass(eq=False)
class _Source:
    """A bundle of an arm: where its counts are, what was decided and when, and all counts that it knows."""

    arm: str
    place: int
    live: LiveCalibration
    stepped_ms: int
    seen: Counts = field(default_factory=lambda: np.zeros((BINS, 3)))


class Decider:
    """The live calibrations of a memory, which metrics tell of. `now_ms` are Unix times in milliseconds."""

    def __init__(self, settings: Settings, memory: LiveMemory, metrics: Metrics, now_ms: int) -> None:
        self._memory = memory
        self._metrics = metrics
        self._period_ms = 1000 * settings.live_period_seconds
        self._rules = Rules(
            settings.live_half_life_seconds,
            settings.live_min_clicks,
            settings.live_max_step,
            settings.live_max_change,
        )
        self._sources: dict[int, _Source] = {}
        self._retired: dict[int, _Source] = {}
        self._stepped_ms = now_ms

    def serve(self, arms: Mapping[int, str]) -> None:
        """Decide on these sources, by number with the arm of each; a new one begins without a correction.

        One that is served again, after a rollback perhaps, goes on with its own as long as it has its place.
        Of an arm with several sources, the metrics tell of the last one.
        """
        places = self._memory.keep(set(arms))
        known = {**self._retired, **self._sources}
        known = {number: each for number, each in known.items() if self._memory.place(number) == each.place}
        for number in arms.keys() - places.keys():
            logger.warning("arm %s has no live calibration now: there is no room for more", arms[number])
        self._sources = {
            number: known.get(number) or self._new(arm, places[number])
            for number, arm in arms.items()
            if number in places
        }
        self._retired = {number: known[number] for number in known.keys() - self._sources.keys()}
        for source in self._sources.values():
            self._publish(source)

    def _new(self, arm: str, place: int) -> _Source:
        return _Source(arm, place, LiveCalibration(self._rules), self._stepped_ms)

    def step_if_due(self, now_ms: int) -> None:
        """Decide, if a period has passed since that was done."""
        if not 0 <= now_ms - self._stepped_ms < self._period_ms:  # or the clock was set back
            self.step(now_ms)

    def step(self, now_ms: int) -> None:
        """Decide on all sources."""
        self._stepped_ms = now_ms
        for source in self._sources.values():
            try:
                self._step(source, now_ms)
            except Exception:  # whatever it is, requests are answered and other arms go on
                logger.exception("arm %s: its live calibration stays as it is for now", source.arm)

    def _step(self, source: _Source, now_ms: int) -> None:
        total = self._memory.mature(source.place, now_ms)
        seconds = max(0.0, 1e-3 * (now_ms - source.stepped_ms))
        source.stepped_ms = now_ms
        added, source.seen = total - source.seen, total
        decisions = source.live.step(added, seconds)
        self._publish(source)
        for decision in decisions:
            self._tell(source, decision)

    def _publish(self, source: _Source) -> None:
        live, metrics, arm = source.live, self._metrics, source.arm
        recent, correction = live.recent, live.correction
        state = LiveState(
            live.revision,
            correction.intercept,
            correction.slope,
            recent.clicks,
            recent.pcoc(NONE),
            recent.pcoc(correction),
        )
        if state != self._memory.read(source.place):
            self._memory.write(source.place, state)
        metrics.live_revision.labels(arm).set(state.revision)
        metrics.live_intercept.labels(arm).set(state.intercept)
        metrics.live_slope.labels(arm).set(state.slope)
        metrics.live_clicks.labels(arm).set(state.clicks)
        metrics.live_pcoc.labels(arm, "bundle").set(state.pcoc_bundle)
        metrics.live_pcoc.labels(arm, "live").set(state.pcoc_live)

    def _tell(self, source: _Source, decision: Decision) -> None:
        self._metrics.live_decisions.labels(source.arm, decision).inc()
        if decision in (Decision.ADOPTED, Decision.REVERTED):
            correction = source.live.correction
            logger.info(
                "arm %s: live calibration %s, revision %d: log-odds become %.4f + %.4f * log-odds",
                *(source.arm, decision, source.live.revision, correction.intercept, correction.slope),
            )
