"""Counts events: tokens are verified, events that come again are found, and what is new is counted by arm.

It knows neither how events are sent nor when.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from service.calibration.slots import SlotPart
from service.feedback.events import CLICK, IMPRESSION, Event
from service.feedback.log import EventLog, LoggedEvent
from service.feedback.memory import EventMemory
from service.feedback.restore import restore_events
from service.feedback.shadow_events import ShadowEvents
from service.feedback.signers import Signers
from service.feedback.tokens import SKEW_MS, ReadTokens, Reason, Source, now_ms
from service.feedback.window import EventWindow, fingerprints_of
from service.metrics.families import Metrics
from service.metrics.tally import HistogramTally
from service.settings import Settings

COUNTED, DUPLICATE, NO_ROOM = "counted", "duplicate", "no_room"
# An event that is none: of another type, with a field of another type, or before its token.
INVALID = "invalid"
# In the order of Found.
_OF_WINDOW = np.array([COUNTED, DUPLICATE, Reason.EXPIRED.label, NO_ROOM], object)
# By reason: what it is called, and whether a token of it is that of an arm.
_LABELS = np.array([reason.label for reason in Reason], object)
_HAS_ARM = np.array([reason in (Reason.OK, Reason.EXPIRED, Reason.FUTURE) for reason in Reason])


class Judged(NamedTuple):
    """Events [n], None for each that is none; of the others [m] what they are, and the outcomes by now.

    Those with the outcome COUNTED are new in this service.
    """

    events: Sequence[Event | None]
    valid: Sequence[Event]
    batch: Batch
    tokens: ReadTokens
    found: NDArray[np.object_]
    sources: Mapping[int, Source]

    @property
    def new(self) -> NDArray[np.intp]:
        """The places of those that are new."""
        return np.flatnonzero(self.found == COUNTED)


class EventCounter:
    """Counts events of the `signers`' tokens, each once over all processes of the `memory`.

    The settings may name a log, which gets all that is counted. The memory may have parts for live
    calibration, which gets what is new of each source, for counts by the hour, and for what shadows said.
    `find` may know sources that the memory does not, by their numbers: it adds them, or raises
    BlockingIOError until it knows.
    """

    find: Callable[[set[int]], None] | None = None

    def __init__(self, settings: Settings, metrics: Metrics, memory: EventMemory, signers: Signers) -> None:
        self._settings = settings
        self._metrics = metrics
        self._memory = memory
        self._signers = signers
        self._attribution_ms = 1000 * settings.attribution_seconds
        self._click_window_ms = 1000 * settings.click_window_seconds
        self._window = EventWindow(memory, self._attribution_ms)
        self._window_seconds = metrics.feedback_window.labels()
        self._learns_from_all = settings.live_learn_from == "all"
        self._live = None if memory.live is None else SlotPart(memory.live, metrics.number)
        self._shadows: ShadowEvents | None = None
        if memory.shadows is not None:
            self._shadows = ShadowEvents(memory.shadows, settings.arm_names, metrics)
        self._hours = None if memory.hours is None else SlotPart(memory.hours, metrics.number)
        self._log: EventLog | None = None
        if settings.feedback_log:
            self._log = EventLog(
                settings.feedback_log, lambda outcome, number: metrics.log_events.labels(outcome).inc(number)
            )

    def restore(self) -> None:
        """Know the events of the log, before others come. Raises BadConfiguration."""
        restore_events(self._settings, self._memory, self._metrics)

    def serve(self, sources: Iterable[Source]) -> None:
        """Count events of these sources from now on, and of those before as long as their tokens last."""
        self._memory.add_sources(sources)

    def publish(self) -> None:
        """Tell other processes of the sources, and the metrics how old tokens may be."""
        self._memory.share_sources()
        self._window_seconds.set(self._window.seconds(now_ms()))
        if self._log is not None:
            self._log.publish()

    async def close(self) -> None:
        """Write what is to be logged; nothing more can be counted."""
        if self._log is not None:
            await asyncio.to_thread(self._log.close)
            self._log.publish()
        self._memory.close()

    def count(self, events: Sequence[Event | None]) -> Sequence[str]:
        """Count some hundred events, None for each that is none; the outcomes [n]. Raises BlockingIOError."""
        return self.settle(self.judge(events))

    def judge(self, events: Sequence[Event | None]) -> Judged:
        """What events are; the window has the new ones from now on. Raises BlockingIOError."""
        now = now_ms()
        valid = [event for event in events if event is not None]
        batch, sources = Batch(valid, now), self._memory.sources
        tokens = self._signers.reader.read(
            [event.token for event in valid], sources, now, self._attribution_ms
        )
        if self.find is not None:
            unknown = tokens.sources[tokens.reasons == Reason.UNKNOWN_BUNDLE]
            if len(unknown):
                self.find(set(unknown.tolist()))
        return Judged(events, valid, batch, tokens, self._judge(batch, tokens, now), sources)

    def settle(self, judged: Judged) -> Sequence[str]:
        """Count events that were judged; the outcomes [n]."""
        events = judged.events
        found = np.full(len(events), INVALID, object)
        if judged.valid:
            found[[event is not None for event in events]] = self._count_valid(judged)
        if len(judged.valid) < len(events):
            self._metrics.events.labels("", "", INVALID).inc(len(events) - len(judged.valid))
        outcomes: list[str] = found.tolist()
        return outcomes

    def _count_valid(self, judged: Judged) -> NDArray[np.object_]:
        """The outcomes of events [m], counted."""
        _, events, batch, tokens, found, sources = judged
        is_new, has_arm = found == COUNTED, _HAS_ARM[tokens.reasons]
        for number in np.unique(tokens.sources[has_arm]).tolist():
            arm, is_of_arm = sources[number].arm, has_arm & (tokens.sources == number)
            self._count_outcomes(arm, batch, found, is_of_arm)
            new = is_of_arm & is_new
            self._count_new(arm, batch, tokens, new)
            made_ms, log_odds, is_click = tokens.made_ms[new], tokens.log_odds[new], batch.is_click[new]
            if self._live is not None:
                learned = slice(None) if self._learns_from_all else tokens.is_explored[new]
                self._live.add(number, made_ms[learned], log_odds[learned], is_click[learned])
            if self._hours is not None and len(made_ms):
                self._hours.add(arm, made_ms, log_odds, is_click)
            if self._shadows is not None:
                self._shadows.count(arm, tokens.hashes[new], log_odds, is_click, now_ms())
        self._count_outcomes("", batch, found, ~has_arm)
        if self._log is not None and is_new.any():
            self._log.add([*_logged(events, batch, tokens, np.flatnonzero(is_new), sources)])
        return found

    def _judge(self, batch: Batch, tokens: ReadTokens, now: int) -> NDArray[np.object_]:
        """The outcome of each event [n], new ones added to the window. Raises BlockingIOError."""
        found = _LABELS[tokens.reasons]
        is_ok = tokens.reasons == Reason.OK
        found[is_ok & (batch.at > now + SKEW_MS)] = Reason.FUTURE.label
        found[is_ok & (batch.at < tokens.made_ms - SKEW_MS)] = INVALID
        left = found == Reason.OK.label
        if left.any():
            prints = fingerprints_of(tokens.hashes[left], batch.is_click[left])
            judged = self._window.add(prints, tokens.made_ms[left], now)
            found[left] = _OF_WINDOW[judged]
        return found

    def _count_outcomes(
        self, arm: str, batch: Batch, found: NDArray[np.object_], chosen: NDArray[np.bool_]
    ) -> None:
        """Count the outcomes of the chosen events, by type."""
        for event_type, is_type in ((IMPRESSION, ~batch.is_click), (CLICK, batch.is_click)):
            for outcome, count in Counter(found[chosen & is_type].tolist()).items():
                self._metrics.events.labels(arm, event_type, outcome).inc(count)

    def _count_new(self, arm: str, batch: Batch, tokens: ReadTokens, is_new: NDArray[np.bool_]) -> None:
        """Count what the chosen events say of an arm: all of them are new."""
        shown, clicked = is_new & ~batch.is_click, is_new & batch.is_click
        if shown.any():
            self._metrics.shown_pctr.labels(arm).inc(float(tokens.pctrs[shown].sum()))
        if (explored := is_new & tokens.is_explored).any():
            self._count_explored(arm, batch, tokens, explored)
        if clicked.any():
            delays_ms = np.maximum(batch.at[clicked] - tokens.made_ms[clicked], 0.0)
            delays = HistogramTally(self._metrics.click_delay.labels(arm))
            delays.observe_many(1e-3 * delays_ms)
            delays.publish()
            late = int(np.count_nonzero(delays_ms > self._click_window_ms))
            self._metrics.late_clicks.labels(arm).inc(late)

    def _count_explored(
        self, arm: str, batch: Batch, tokens: ReadTokens, is_explored: NDArray[np.bool_]
    ) -> None:
        """Count again what the chosen events say of an arm: all of them are new, of explored requests."""
        shown = is_explored & ~batch.is_click
        clicks = int(np.count_nonzero(is_explored & batch.is_click))
        self._metrics.explored_pctr.labels(arm).inc(float(tokens.pctrs[shown].sum()))
        for event_type, count in ((IMPRESSION, int(np.count_nonzero(shown))), (CLICK, clicks)):
            self._metrics.explored_events.labels(arm, event_type).inc(count)


class Batch:
    """Events as arrays [n]: whether each is a click, and when it happened, Unix time in milliseconds."""

    def __init__(self, events: Sequence[Event], now: int) -> None:
        self.is_click = np.array([event.type == CLICK for event in events], bool)
        self.at = np.array([now if event.at is None else event.at for event in events], np.float64)


def _logged(
    events: Sequence[Event],
    batch: Batch,
    tokens: ReadTokens,
    chosen: NDArray[np.intp],
    sources: Mapping[int, Source],
) -> Iterator[LoggedEvent]:
    """The chosen events as the log has them."""
    numbers, at, pctrs = tokens.sources[chosen], batch.at[chosen], tokens.pctrs[chosen]
    for place, number, ms, pctr in zip(
        chosen.tolist(), numbers.tolist(), at.tolist(), pctrs.tolist(), strict=True
    ):
        event, source = events[place], sources[number]
        yield LoggedEvent(round(ms), event.type, source.arm, source.bundle, source.variant, pctr, event.token)
