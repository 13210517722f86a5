"""Counters, gauges and histograms in the memory of all processes, and their sums; it names no metric.

A family is one metric; each of its series belongs to one set of values of its labels. What processes count is
added up over all of them, also over those that have ended. Of gauges, those of ended processes are left out.
"""

from __future__ import annotations

import logging
import math
import operator
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Generic, Literal, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray
from prometheus_client import Metric

from service.metrics.memory import MAX_NUMBERS, CountMemory, CountPart, Place, UnreadableCounts

logger = logging.getLogger("bidlight")

# What can go wrong with a series: its part of the memory is full, or a part cannot be read.
FULL, UNREADABLE = "full", "unreadable"

Labels = tuple[str, ...]
Sample = tuple[str, dict[str, str], float]
"""Suffix of the metric's name, labels beside the series' own, value."""

_encode_key = msgspec.msgpack.Encoder().encode
_decode_key = msgspec.msgpack.Decoder(tuple[str, ...]).decode


class Series:
    """What this process counts of one series; one thread adds to it."""

    __slots__ = ("_numbers", "_place")

    def __init__(self, part: CountPart, place: Place) -> None:
        self._numbers = part.numbers
        self._place = place


class Counter(Series):
    """A number that grows."""

    __slots__ = ()

    def inc(self, amount: float = 1.0) -> None:
        """Add `amount`, zero or more."""
        self._numbers[self._place.at] += amount


class Gauge(Series):
    """A number that is as it was last set."""

    __slots__ = ()

    def set(self, value: float) -> None:
        """Replace the number."""
        self._numbers[self._place.at] = value


class Histogram(Series):
    """The sum of some values, and how many of them are in each bucket."""

    __slots__ = ("_array", "bounds")

    def __init__(self, part: CountPart, place: Place, bounds: tuple[float, ...]) -> None:
        super().__init__(part, place)
        self._array = part.array
        self.bounds = bounds
        """The upper bounds of the buckets; the last is infinite."""

    def observe(self, value: float) -> None:
        """Add one value."""
        at = self._place.at
        self._numbers[at] += value
        self._numbers[at + 1 + bisect_left(self.bounds, value)] += 1.0

    def add(self, counts: NDArray[np.int64], total: float) -> None:
        """Add `counts` [buckets], the number of values in each bucket; `total` is the sum of the values."""
        at = self._place.at
        self._numbers[at] += total
        self._array[at + 1 : at + 1 + len(counts)] += counts


S = TypeVar("S", bound=Series)


class Family(ABC, Generic[S]):
    """A metric: its name without suffix, what it counts, and the names of its labels.

    A series is shown for ever, or, unless `is_lasting`, as long as a process that lives uses it.
    """

    kind: ClassVar[str]
    counts_the_past: ClassVar[bool] = True
    """Whether values of processes that have ended count."""
    width = 1
    """The numbers of a series."""

    def __init__(
        self,
        name: str,
        help_text: str,
        labels: Sequence[str] = (),
        *,
        registry: Registry,
        is_lasting: bool = True,
    ) -> None:
        self.name, self.help_text, self.label_names = name, help_text, tuple(labels)
        self.is_lasting = is_lasting
        self._registry = registry
        self._series: dict[Labels, S] = {}
        registry.register(self)

    def labels(self, *values: str) -> S:
        """The series of these values of the labels."""
        series = self._series.get(values)
        if series is None:
            series = self._series[values] = self._make(
                self._registry.part, self._registry.place(self, values)
            )
        return series

    def retain(self, used: Collection[Labels]) -> None:
        """Stop using the series of other labels."""
        for values in self._series.keys() - used:
            del self._series[values]
            self._registry.part.hide(self.key(values))

    def labels_of_all_processes(self) -> set[Labels]:
        """The values of the labels of all series that any process has."""
        return {labels for family, labels, _, _ in self._registry.read_all() if family is self}

    def key(self, values: Labels) -> bytes:
        """What names a series in memory."""
        return _encode_key((self.name, *values))

    def combine(self, first: Sequence[float], second: Sequence[float]) -> Sequence[float]:
        """The numbers of a series of two processes together."""
        return [one + other for one, other in zip(first, second, strict=True)]

    @abstractmethod
    def samples(self, numbers: Sequence[float]) -> Iterable[Sample]:
        """What a scrape shows of the numbers of a series."""

    @abstractmethod
    def _make(self, part: CountPart, place: Place) -> S: ...


class Counters(Family[Counter]):
    """Counters, summed over processes."""

    kind = "counter"

    def samples(self, numbers: Sequence[float]) -> Iterable[Sample]:
        """The one number."""
        yield "_total", {}, numbers[0]

    def _make(self, part: CountPart, place: Place) -> Counter:
        return Counter(part, place)


_OF_TWO: Mapping[str, Callable[[float, float], float]] = {"sum": operator.add, "max": max, "min": min}


class Gauges(Family[Gauge]):
    """Gauges; of several processes, the sum, the largest or the smallest is shown."""

    kind = "gauge"
    counts_the_past = False

    def __init__(
        self,
        name: str,
        help_text: str,
        labels: Sequence[str] = (),
        *,
        registry: Registry,
        of_processes: Literal["sum", "max", "min"],
    ) -> None:
        super().__init__(name, help_text, labels, registry=registry, is_lasting=False)
        self._of_two = _OF_TWO[of_processes]

    def combine(self, first: Sequence[float], second: Sequence[float]) -> Sequence[float]:
        """The sum, the larger one, or the smaller one."""
        return [self._of_two(first[0], second[0])]

    def samples(self, numbers: Sequence[float]) -> Iterable[Sample]:
        """The one number."""
        yield "", {}, numbers[0]

    def _make(self, part: CountPart, place: Place) -> Gauge:
        gauge = Gauge(part, place)
        gauge.set(0.0)  # not what an earlier process has left
        return gauge


class Histograms(Family[Histogram]):
    """Histograms with the same buckets, summed over processes."""

    kind = "histogram"

    def __init__(
        self,
        name: str,
        help_text: str,
        labels: Sequence[str] = (),
        *,
        registry: Registry,
        buckets: Sequence[float],
    ) -> None:
        self._bounds = (*map(float, buckets), math.inf)
        self.width = 1 + len(self._bounds)
        super().__init__(name, help_text, labels, registry=registry)

    def samples(self, numbers: Sequence[float]) -> Iterable[Sample]:
        """Each bucket with those below it, the number of values, and their sum."""
        total, *counts = numbers
        count = 0.0
        for bound, added in zip(self._bounds, counts, strict=True):
            count += added
            yield "_bucket", {"le": "+Inf" if math.isinf(bound) else str(bound)}, count
        yield "_count", {}, count
        yield "_sum", {}, total

    def _make(self, part: CountPart, place: Place) -> Histogram:
        return Histogram(part, place, self._bounds)


class Registry:
    """The families of a process, which counts in part `number` of the memory and adds up all parts."""

    def __init__(self, memory: CountMemory, number: int) -> None:
        self.part = CountPart(memory, number)
        self.faults: dict[str, Counter] = {}
        """What counts FULL and UNREADABLE."""
        self._memory = memory
        self._families: dict[str, Family[Any]] = {}
        self._is_logged: set[str] = set()

    @property
    def families(self) -> Mapping[str, Family[Any]]:
        """All families by their names, which have no suffix."""
        return self._families

    def register(self, family: Family[Any]) -> None:
        """Add a family."""
        assert family.name not in self._families
        assert family.width <= MAX_NUMBERS
        self._families[family.name] = family

    def place(self, family: Family[Any], labels: Labels) -> Place:
        """The place of a series. One that has no room is not counted: that is a fault, and no error."""
        assert len(labels) == len(family.label_names)
        place = self.part.place(family.key(labels), family.width, is_lasting=family.is_lasting)
        if place is None:
            self._count_fault(FULL, f"there is no room to count {family.name} of {', '.join(labels)}")
            return self.part.scratch
        return place

    def read_all(self) -> Iterator[tuple[Family[Any], Labels, tuple[float, ...], bool]]:
        """Family, labels and numbers of the series of all processes, and whether they are shown."""
        known: dict[bytes, tuple[Family[Any], Labels]] = {}
        for number in range(self._memory.parts):
            try:
                for series in self._memory.read(number):
                    if series.key not in known:
                        known[series.key] = self._identify(series.key, len(series.numbers))
                    yield *known[series.key], series.numbers, series.is_shown
            except UnreadableCounts:
                self._count_fault(UNREADABLE, f"the counts of process {number} cannot be read to their end")

    def totals(self) -> dict[tuple[str, Labels], Sequence[float]]:
        """The numbers of each series that is shown, by family and labels, added up over all processes."""
        sums: dict[tuple[str, Labels], Sequence[float]] = {}
        shown: set[tuple[str, Labels]] = set()
        for family, labels, numbers, is_shown in self.read_all():
            if is_shown or family.counts_the_past:
                key = family.name, labels
                sums[key] = family.combine(sums[key], numbers) if key in sums else numbers
                if is_shown:
                    shown.add(key)
        return {key: total for key, total in sums.items() if key in shown}

    def sums(self, wanted: Iterable[tuple[str, Labels]]) -> dict[tuple[str, Labels], Sequence[float]]:
        """The numbers of some series by family and labels, over all processes: zeros if none has it.

        It costs less than the totals of all.
        """
        keys = {self._families[name].key(labels): (name, labels) for name, labels in wanted}
        sums: dict[tuple[str, Labels], Sequence[float]] = {
            (name, labels): (0.0,) * self._families[name].width for name, labels in keys.values()
        }
        for number in range(self._memory.parts):
            try:
                for series in self._memory.read(number):
                    key = keys.get(series.key)
                    if key is not None and len(series.numbers) == self._families[key[0]].width:
                        sums[key] = self._families[key[0]].combine(sums[key], series.numbers)
            except UnreadableCounts:
                self._count_fault(UNREADABLE, f"the counts of process {number} cannot be read to their end")
        return sums

    def collect(self) -> Iterator[Metric]:
        """Every family, added up over all processes, in the form of prometheus_client."""
        metrics = {name: Metric(name, each.help_text, each.kind) for name, each in self._families.items()}
        for (name, labels), total in self.totals().items():
            family = self._families[name]
            named = dict(zip(family.label_names, labels, strict=True))
            for suffix, more, number in family.samples(total):
                metrics[name].add_sample(name + suffix, named | more, number)
        yield from metrics.values()

    def _identify(self, key: bytes, numbers: int) -> tuple[Family[Any], Labels]:
        """Family and labels of a series. Raises UnreadableCounts."""
        try:
            name, *labels = _decode_key(key)
            family = self._families[name]
        except (msgspec.DecodeError, UnicodeDecodeError, KeyError, ValueError) as error:
            raise UnreadableCounts from error
        if len(labels) != len(family.label_names) or numbers != family.width:
            raise UnreadableCounts
        return family, tuple(labels)

    def _count_fault(self, fault: str, message: str) -> None:
        self.faults[fault].inc()
        if fault not in self._is_logged:  # the metric tells how often
            self._is_logged.add(fault)
            logger.error("%s", message)
