"""What the log of events says of the tokens of some hours: when each was shown, and when it was clicked.

It knows no request. Memory holds 24 bytes for each token with an event; of more tokens than are allowed at
once, one of several parts of them is held, by their hashes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from service.feedback.events import CLICK, EventType
from service.feedback.log import read_events
from service.feedback.tokens import Reason, read_unverified

Hashes = NDArray[np.uint64]
Times = NDArray[np.int64]

NEVER = np.iinfo(np.int64).max
MAX_TOKENS = 4_000_000


class TooMany(Exception):
    """There are more tokens with events than are held at once."""


class _Line(msgspec.Struct, frozen=True, gc=False):
    """What is needed of a line of the log of events (service.feedback.log)."""

    at: int
    type: EventType
    token: str


_decode = msgspec.json.Decoder(_Line).decode


@dataclass(frozen=True)
class Part:
    """One of `count` parts of all tokens, by what is left of their hashes."""

    number: int = 0
    count: int = 1

    def halves(self) -> tuple[Part, Part]:
        """The two parts of twice as many that this one has."""
        return Part(self.number, 2 * self.count), Part(self.number + self.count, 2 * self.count)

    def has(self, hashes: Hashes) -> NDArray[np.bool_]:
        """Which of these [n] it has."""
        found: NDArray[np.bool_] = hashes % np.uint64(self.count) == np.uint64(self.number)
        return found


@dataclass(frozen=True, eq=False)
class EventArrays:
    """Events of a file [n]: the hashes of their tokens, when these were made, and when the event happened."""

    hashes: Hashes
    made_ms: Times
    at: Times
    is_click: NDArray[np.bool_]

    @property
    def delays_ms(self) -> Times:
        """How long after its token each event happened [n]; the clocks of machines may differ."""
        delays: Times = np.maximum(self.at - self.made_ms, 0)
        return delays

    def chosen(self, rows: NDArray[np.bool_]) -> EventArrays:
        """Those events [n]."""
        return EventArrays(self.hashes[rows], self.made_ms[rows], self.at[rows], self.is_click[rows])


class EventReader:
    """Reads files of events, and counts the lines that are none."""

    def __init__(self) -> None:
        self.unreadable = 0

    def read(self, path: Path) -> Iterable[EventArrays]:
        """The events of a file, some thousand at once. Raises OSError."""
        for events, unreadable in read_events(path, _decode):
            tokens = read_unverified([event.token for event in events])
            is_ok = tokens.reasons == Reason.OK
            self.unreadable += unreadable + int(np.count_nonzero(~is_ok))
            at = np.fromiter((event.at for event in events), np.int64, len(events))
            is_click = np.fromiter((event.type == CLICK for event in events), bool, len(events))
            yield EventArrays(tokens.hashes[is_ok], tokens.made_ms[is_ok], at[is_ok], is_click[is_ok])


@dataclass(frozen=True, eq=False)
class Outcomes:
    """Tokens that were shown or clicked, by their hashes [n], in order; Unix times [n] or NEVER."""

    hashes: Hashes
    shown_ms: Times
    clicked_ms: Times

    @classmethod
    def of(cls, parts: Sequence[EventArrays]) -> Outcomes:
        """Of events that come twice, as from two machines, the earlier one counts."""
        if not parts:
            return cls(np.empty(0, np.uint64), np.empty(0, np.int64), np.empty(0, np.int64))
        at = np.concatenate([part.at for part in parts])
        is_click = np.concatenate([part.is_click for part in parts])
        hashes, place = np.unique(np.concatenate([part.hashes for part in parts]), return_inverse=True)
        shown, clicked = (np.full(len(hashes), NEVER, np.int64) for _ in range(2))
        np.minimum.at(shown, place[~is_click], at[~is_click])
        np.minimum.at(clicked, place[is_click], at[is_click])
        return cls(hashes, shown, clicked)

    def find(self, hashes: Hashes) -> tuple[Times, Times]:
        """When the tokens of these hashes were shown and clicked [n], NEVER if they were not."""
        if not len(self.hashes):
            never = np.full(len(hashes), NEVER, np.int64)
            return never, never
        place = np.minimum(np.searchsorted(self.hashes, hashes), len(self.hashes) - 1)
        is_known = self.hashes[place] == hashes
        shown = np.where(is_known, self.shown_ms[place], NEVER)
        clicked = np.where(is_known, self.clicked_ms[place], NEVER)
        return shown, clicked


def read_outcomes(
    reader: EventReader, files: Iterable[Path], made: range, window_ms: int, part: Part, max_tokens: int
) -> Outcomes:
    """The outcomes of tokens that were `made` then (Unix times), within a window after each.

    Raises OSError; TooMany, if more than `max_tokens` have some.
    """
    parts: list[EventArrays] = []
    held = 0
    for path in files:
        for events in reader.read(path):
            chosen = (events.made_ms >= made.start) & (events.made_ms < made.stop)
            chosen &= (events.delays_ms <= window_ms) & part.has(events.hashes)
            if chosen.any():
                parts.append(events.chosen(chosen))
                held += int(np.count_nonzero(chosen))
                if held > 2 * max_tokens:  # an impression and a click of each
                    raise TooMany
    return Outcomes.of(parts)
