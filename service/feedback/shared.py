"""Counts events over machines: what is new in this service is asked for in a store before it is counted.

It knows neither how events are sent nor what is counted of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING

from service.feedback.claims import OUTCOMES, Claims, Flags
from service.feedback.counting import DUPLICATE, EventCounter, Judged
from service.feedback.events import Event
from service.feedback.memory import EventMemory
from service.feedback.tokens import SKEW_MS, Source, now_ms, taken_until_ms
from service.feedback.window import fingerprints_of
from service.metrics.families import Metrics
from service.settings import Settings

if TYPE_CHECKING:
    from service.feedback.store import EventStore

# How often machines are told of the sources of this one.
ANNOUNCE_SECONDS = 60.0
# A source that no machine knew is asked for again after so long.
UNKNOWN_SECONDS = 1.0
_MOST_UNKNOWN = 1024


class SharedCounter:
    """Counts events by a `counter`, each once over the machines of a `store`."""

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        memory: EventMemory,
        counter: EventCounter,
        store: EventStore,
    ) -> None:
        self._counter = counter
        self._metrics = metrics
        self._attribution_ms = 1000 * settings.attribution_seconds
        self._store = store
        seconds = 1e-3 * settings.feedback_store_timeout_ms
        checks = {outcome: metrics.feedback_checks.labels(outcome) for outcome in OUTCOMES}
        self._claims = Claims(self._store, seconds, lambda outcome, count: checks[outcome].inc(count), now_ms)
        self._sources = _SourcesOfOthers(self._store, memory, seconds)
        counter.find = self._sources.find
        self._served: tuple[Source, ...] = ()
        self._announced = -ANNOUNCE_SECONDS

    def start(self) -> None:
        """Connect in the background of the running event loop."""
        self._store.start(self._opened)

    async def close(self) -> None:
        """Close the connections. What was to be asked for again is forgotten."""
        await self._store.close()
        self._claims.close()
        self._publish_counts()

    def serve(self, sources: Iterable[Source]) -> None:
        """These sources make tokens from now on, which come back to any machine."""
        self._served = tuple(sources)
        self._announce()

    def publish(self) -> None:
        """Ask again for events that count without an answer, and tell machines and metrics what is so."""
        if monotonic() - self._announced >= ANNOUNCE_SECONDS:
            self._announce()
        self._claims.ask_again()
        self._publish_counts()

    def count(self, events: Sequence[Event | None]) -> asyncio.Future[Sequence[str]]:
        """Count some hundred events; the outcomes [n] when the store has answered. Raises BlockingIOError."""
        judged = self._counter.judge(events)
        counted: asyncio.Future[Sequence[str]] = asyncio.get_running_loop().create_future()
        new = judged.new
        if not len(new):
            counted.set_result(self._counter.settle(judged))
            return counted
        tokens = judged.tokens
        prints = fingerprints_of(tokens.hashes[new], judged.batch.is_click[new])
        until_ms = taken_until_ms(tokens.made_ms[new], self._attribution_ms)
        self._claims.ask(prints, until_ms, partial(self._settle, judged, counted))
        return counted

    def _settle(self, judged: Judged, counted: asyncio.Future[Sequence[str]], counts_here: Flags) -> None:
        judged.found[judged.new[~counts_here]] = DUPLICATE
        try:
            outcomes = self._counter.settle(judged)
        except Exception as error:
            counted.set_exception(error)
        else:
            counted.set_result(outcomes)

    def _opened(self) -> None:
        self._announce()
        self._claims.ask_for_latest()

    def _announce(self) -> None:
        if self._store.is_open:
            self._announced = monotonic()
            lasts = self._attribution_ms + 2 * SKEW_MS + round(2_000 * ANNOUNCE_SECONDS)
            self._store.announce(self._served, lasts)

    def _publish_counts(self) -> None:
        self._metrics.feedback_unchecked.labels().set(self._claims.unchecked)
        self._metrics.feedback_store_connected.labels().set(float(self._store.is_open))


def shared_counter(
    settings: Settings, metrics: Metrics, memory: EventMemory, counter: EventCounter
) -> SharedCounter | None:
    """What counts over machines, if the settings say so. Raises BadConfiguration."""
    if not settings.feedback_store:
        return None
    from service.feedback.store import EventStore  # its library is loaded for it alone

    return SharedCounter(settings, metrics, memory, counter, EventStore(settings.feedback_store))


class _SourcesOfOthers:
    """The sources of tokens that other machines make, asked for when such a token comes back.

    Only tokens with a right hash are asked for, so nobody without a key makes it ask.
    """

    def __init__(self, store: EventStore, memory: EventMemory, seconds: float) -> None:
        self._store = store
        self._memory = memory
        self._seconds = seconds
        self._asked: dict[int, float] = {}
        self._unknown: dict[int, float] = {}

    def find(self, numbers: set[int]) -> None:
        """Ask for sources. Raises BlockingIOError as long as an answer may come; then they are unknown."""
        now = monotonic()
        numbers = {number for number in numbers if now - self._unknown.get(number, 0.0) > UNKNOWN_SECONDS}
        new = numbers - self._asked.keys()
        if new and self._store.is_open:
            self._asked.update(dict.fromkeys(new, now))
            self._store.find([*new], partial(self._take, new))
        for number in numbers & self._asked.keys():
            if now - self._asked[number] < self._seconds:
                raise BlockingIOError
            self._miss(number)  # a late answer is still taken

    def _take(self, numbers: set[int], found: list[Source] | None) -> None:
        if found:
            self._memory.add_sources(found)
        for number in numbers - {source.number for source in found or ()}:
            self._miss(number)
        for number in numbers:
            self._asked.pop(number, None)

    def _miss(self, number: int) -> None:
        if len(self._unknown) >= _MOST_UNKNOWN:
            self._unknown.clear()
        self._unknown[number] = monotonic()
