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
    # What is mature by then is of tokens that are not learned from.
    ignored_until_ms: int = 0


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
        self._frozen: set[str] = set()
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
            number: known.get(number) or self._begin(arm, places[number])
            for number, arm in arms.items()
            if number in places
        }
        self._retired = {number: known[number] for number in known.keys() - self._sources.keys()}
        for source in self._sources.values():
            source.live.is_frozen = source.arm in self._frozen
            for decision in Decision:  # a counter that begins at 1 has no increase
                self._metrics.live_decisions.labels(source.arm, decision)
            self._publish(source)

    def _begin(self, arm: str, place: int) -> _Source:
        return _Source(arm, place, LiveCalibration(self._rules), self._stepped_ms)

    def state(self, arm: str) -> LiveState | None:
        """What is decided for an arm, of several sources for the last; None: it has no live calibration."""
        sources = self._of(arm)
        return _state_of(sources[-1].live) if sources else None

    @property
    def memory(self) -> LiveMemory:
        """What all processes have counted."""
        return self._memory

    def place(self, arm: str) -> int | None:
        """Where the counts of the bundle are that an arm serves last."""
        sources = self._of(arm)
        return sources[-1].place if sources else None

    def freeze(self, arm: str) -> None:
        """What is served for an arm stays, that of bundles to come too: none."""
        self._frozen.add(arm)
        self._set_frozen(arm, is_frozen=True)

    def thaw(self, arm: str) -> None:
        """Decisions change again what is served for an arm."""
        self._frozen.discard(arm)
        self._set_frozen(arm, is_frozen=False)

    def reset(self, arm: str, now_ms: int) -> None:
        """Serve an arm without a correction, and learn from the tokens that are made from now on alone."""
        for source in self._of(arm):
            source.live.reset()
            source.ignored_until_ms = self._memory.matured_ms(now_ms)
            self._publish(source)

    def _set_frozen(self, arm: str, *, is_frozen: bool) -> None:
        for source in self._of(arm):
            source.live.is_frozen = is_frozen
            self._publish(source)

    def _of(self, arm: str) -> list[_Source]:
        return [source for source in self._sources.values() if source.arm == arm]

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
        if source.ignored_until_ms:
            source.seen = self._memory.mature(source.place, min(now_ms, source.ignored_until_ms))
            if now_ms > source.ignored_until_ms:
                source.ignored_until_ms = 0
        total = self._memory.mature(source.place, now_ms)
        seconds = max(0.0, 1e-3 * (now_ms - source.stepped_ms))
        source.stepped_ms = now_ms
        added, source.seen = total - source.seen, total
        decisions = source.live.step(added, seconds)
        self._publish(source)
        for decision in decisions:
            self._tell(source, decision)

    def _publish(self, source: _Source) -> None:
        metrics, arm, state = self._metrics, source.arm, _state_of(source.live)
        if state != self._memory.read(source.place):
            self._memory.write(source.place, state)
        metrics.live_revision.labels(arm).set(state.revision)
        metrics.live_intercept.labels(arm).set(state.intercept)
        metrics.live_slope.labels(arm).set(state.slope)
        metrics.live_clicks.labels(arm).set(state.clicks)
        metrics.live_pcoc.labels(arm, "bundle").set(state.pcoc_bundle)
        metrics.live_pcoc.labels(arm, "live").set(state.pcoc_live)
        metrics.live_frozen.labels(arm).set(state.is_frozen)

    def _tell(self, source: _Source, decision: Decision) -> None:
        self._metrics.live_decisions.labels(source.arm, decision).inc()
        if decision in (Decision.ADOPTED, Decision.REVERTED) and not source.live.is_frozen:
            correction = source.live.correction
            logger.info(
                "arm %s: live calibration %s, revision %d: log-odds become %s + %s * log-odds",
                *(source.arm, decision, source.live.revision, correction.intercept, correction.slope),
            )


def _state_of(live: LiveCalibration) -> LiveState:
    recent, correction = live.recent, live.correction
    return LiveState(
        live.revision,
        correction.intercept,
        correction.slope,
        recent.clicks,
        recent.pcoc(NONE),
        recent.pcoc(correction),
        live.is_frozen,
    )
