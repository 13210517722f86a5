"""Counts events: tokens are verified, events that come again are found, and what is new is counted by arm.

It knows neither how events are sent nor what else the process does, only that something else may come first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from time import monotonic
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from service.errors import Overloaded
from service.feedback.events import CLICK, IMPRESSION, Event, FeedbackAnswer
from service.feedback.log import EventLog, LoggedEvent
from service.feedback.memory import EventMemory
from service.feedback.restore import restore_events
from service.feedback.signers import Signers
from service.feedback.tokens import SKEW_MS, ReadTokens, Reason, Source, now_ms
from service.feedback.window import EventWindow, fingerprints_of
from service.metrics.families import Metrics
from service.metrics.tally import HistogramTally
from service.settings import Settings

T = TypeVar("T")

# A slice takes a fraction of a millisecond.
SLICE_EVENTS = 256
# How long a slice waits for bids that wait, and for another process, before its events are refused.
PATIENCE_SECONDS, PAUSE_SECONDS = 0.25, 0.002
COUNTED, DUPLICATE, NO_ROOM = "counted", "duplicate", "no_room"
# An event that is none: of another type, with a field of another type, or before its token.
INVALID = "invalid"
# In the order of Found.
_OF_WINDOW = np.array([COUNTED, DUPLICATE, Reason.EXPIRED.label, NO_ROOM], object)
# By reason: what it is called, and whether a token of it is that of an arm.
_LABELS = np.array([reason.label for reason in Reason], object)
_HAS_ARM = np.array([reason in (Reason.OK, Reason.EXPIRED, Reason.FUTURE) for reason in Reason])


class FeedbackShed(Overloaded):
    """There is no time for events now. Those that are sent again later count once."""

    reason = "feedback"


class EventCounter:
    """Counts events of the `signers`' tokens, each once over all processes of the `memory`.

    Long lists are counted in slices, whoever sends them, at most one in an iteration of the event loop; while
    something `is_behind`, none. `on_work` is called after each.
    """

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        memory: EventMemory,
        signers: Signers,
        is_behind: Callable[[], bool] = lambda: False,
        on_work: Callable[[], object] = lambda: None,
    ) -> None:
        self._settings = settings
        self._metrics = metrics
        self._memory = memory
        self._signers = signers
        self._is_behind, self._on_work = is_behind, on_work
        self._attribution_ms = 1000 * settings.attribution_seconds
        self._click_window_ms = 1000 * settings.click_window_seconds
        self._window = EventWindow(memory, self._attribution_ms)
        self._window_seconds = metrics.feedback_window.labels()
        self._turn = asyncio.Lock()
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

    async def count(self, events: Sequence[Event | None]) -> FeedbackAnswer:
        """Count events; None is one that is none. Raises FeedbackShed: any of them may be counted by then."""
        outcomes: dict[str, int] = {}
        for start in range(0, len(events), SLICE_EVENTS):
            some = events[start : start + SLICE_EVENTS]
            await self.in_turn(partial(self._count_some, some, outcomes))
        counted, duplicates = outcomes.pop(COUNTED, 0), outcomes.pop(DUPLICATE, 0)
        return FeedbackAnswer(counted, duplicates, outcomes)

    async def in_turn(self, work: Callable[[], T]) -> T:
        """What `work` returns, which is short, after that of others. Raises FeedbackShed."""
        deadline = monotonic() + PATIENCE_SECONDS
        async with self._turn:
            while True:
                if not self._is_behind():
                    try:
                        result = work()
                    except BlockingIOError:  # another process counts just now
                        pass
                    else:
                        self._on_work()
                        await asyncio.sleep(0)
                        return result
                if monotonic() > deadline:
                    raise FeedbackShed(
                        "events must wait for bids; send all of them again soon, they count once"
                    )
                await asyncio.sleep(PAUSE_SECONDS)

    def _count_some(self, events: Sequence[Event | None], outcomes: dict[str, int]) -> None:
        """Count a slice, and add to `outcomes`. Raises BlockingIOError."""
        now = now_ms()
        valid = [event for event in events if event is not None]
        batch = _Batch(valid, now)
        sources = self._memory.sources
        tokens = self._signers.reader.read(
            [event.token for event in valid], sources, now, self._attribution_ms
        )
        found = self._judge(batch, tokens, now)
        is_new = found == COUNTED
        has_arm = _HAS_ARM[tokens.reasons]
        for number in np.unique(tokens.sources[has_arm]).tolist():
            arm, is_of_arm = sources[number].arm, has_arm & (tokens.sources == number)
            self._count_outcomes(arm, batch, found, is_of_arm, outcomes)
            self._count_new(arm, batch, tokens, is_of_arm & is_new)
        if self._log is not None and is_new.any():
            self._log.add([*_logged(valid, batch, tokens, np.flatnonzero(is_new), sources)])
        self._count_outcomes("", batch, found, ~has_arm, outcomes)
        none = len(events) - len(valid)
        if none:
            self._metrics.events.labels("", "", INVALID).inc(none)
            outcomes[INVALID] = outcomes.get(INVALID, 0) + none

    def _judge(self, batch: _Batch, tokens: ReadTokens, now: int) -> NDArray[np.object_]:
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
        self,
        arm: str,
        batch: _Batch,
        found: NDArray[np.object_],
        chosen: NDArray[np.bool_],
        outcomes: dict[str, int],
    ) -> None:
        """Count the outcomes of the chosen events, by type."""
        for event_type, is_type in ((IMPRESSION, ~batch.is_click), (CLICK, batch.is_click)):
            for outcome, count in _counts(found[chosen & is_type]).items():
                self._metrics.events.labels(arm, event_type, outcome).inc(count)
                outcomes[outcome] = outcomes.get(outcome, 0) + count

    def _count_new(self, arm: str, batch: _Batch, tokens: ReadTokens, is_new: NDArray[np.bool_]) -> None:
        """Count what the chosen events say of an arm: all of them are new."""
        shown, clicked = is_new & ~batch.is_click, is_new & batch.is_click
        if shown.any():
            self._metrics.shown_pctr.labels(arm).inc(float(tokens.pctrs[shown].sum()))
        if clicked.any():
            delays_ms = np.maximum(batch.at[clicked] - tokens.made_ms[clicked], 0.0)
            delays = HistogramTally(self._metrics.click_delay.labels(arm))
            delays.observe_many(1e-3 * delays_ms)
            delays.publish()
            late = int(np.count_nonzero(delays_ms > self._click_window_ms))
            self._metrics.late_clicks.labels(arm).inc(late)


class _Batch:
    """Events as arrays [n]: whether each is a click, and when it happened, Unix time in milliseconds."""

    def __init__(self, events: Sequence[Event], now: int) -> None:
        self.is_click = np.array([event.type == CLICK for event in events], bool)
        self.at = np.array([now if event.at is None else event.at for event in events], np.float64)


def _logged(
    events: Sequence[Event],
    batch: _Batch,
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


def _counts(values: NDArray[Any]) -> dict[str, int]:
    """How often each of some words is there."""
    words = values.tolist()
    return {word: words.count(word) for word in {*words}}
