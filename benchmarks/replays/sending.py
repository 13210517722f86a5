"""Sends a log to a service in the order of its time, and what was shown and clicked after it.

The service's clock is set before each turn, a minute or so of the log. It knows neither how a log is read
nor what is made of the answers.
"""

from __future__ import annotations

import json
import re
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from benchmarks.replays.clock import Clock
from benchmarks.replays.log import Floats, Log
from benchmarks.replays.sources import Pace
from loadtest.processes.server import Route, Server, running
from loadtest.traffic.messages import close_all, connect_many, message_of
from service.calibration.decision import Decision
from service.calibration.fit import Correction

ARM = "only"
CONNECTIONS, EVENTS_A_LIST, BUSY_SECONDS = 32, 2_000, 0.02
IDLE_SECONDS, SECONDS_TO_START = 86_400, 300.0
_FEEDBACK = Route("/feedback")

Rows = NDArray[np.intp]
# Rows, the pCTRs [n] that they were answered, and which [n] are explored -> which rows are shown.
Shows = Callable[[Rows, Floats, NDArray[np.bool_]], Rows]


class ReplayError(RuntimeError):
    """The service gave another answer than was expected."""


class _Result(msgspec.Struct):
    pctr: float
    token: str


class _Answer(msgspec.Struct):
    results: list[_Result]
    explore: bool = False


_LENGTH = re.compile(rb"\r\ncontent-length: (\d+)\r\n", re.IGNORECASE)
_decode_answer = msgspec.json.Decoder(_Answer).decode


@dataclass(frozen=True)
class Served:
    """What corrects pCTRs from a time on: Unix seconds."""

    at: int
    revision: int = 0
    correction: Correction = field(default_factory=Correction)


@dataclass(frozen=True, eq=False)
class Replayed:
    """pCTRs as they were answered [n], which rows were shown [n], corrections, and decisions by their
    name."""

    pctrs: Floats
    was_shown: NDArray[np.bool_]
    served: Sequence[Served]
    decisions: Mapping[str, int]
    requests_a_second: float


@contextmanager
def service(
    bundle: Path, folder: Path, starts_at: int, options: Sequence[str]
) -> Iterator[tuple[Server, Clock]]:
    """A service with a bundle, and its clock."""
    keys = folder / "feedback.keys"
    keys.write_text(f"0 {'5e' * 16}\n", encoding="ascii")
    keys.chmod(0o600)
    clock = Clock(folder / "clock", starts_at=1000 * starts_at)
    # Connections that a turn of few rows does not need are idle for long.
    words = [str(clock.path), "--arm", f"{ARM}={bundle}", "--feedback-keys", str(keys), *options]
    words += ["--keep-alive-seconds", str(IDLE_SECONDS)]
    with running("benchmarks.replays.clock", words, seconds=SECONDS_TO_START) as server:
        yield server, clock


def live_options(pace: Pace, click_window: int, *more: str) -> list[str]:
    """The settings of a service whose pCTRs follow feedback."""
    options = ["--live-calibration", "on", "--click-window-seconds", str(click_window)]
    options += ["--live-half-life-seconds", str(pace.half_life), "--live-period-seconds", str(pace.period)]
    return [*options, *more]


class Replay:
    """One log, sent to one service. Clicks come late, by an exponential delay."""

    def __init__(
        self, server: Server, clock: Clock, log: Log, pace: Pace, delay: float, shows: Shows | None
    ) -> None:
        self._server, self._clock, self._log, self._pace = server, clock, log, pace
        self._delays = np.random.default_rng(1).exponential(delay, len(log))
        self._shows = shows
        self._pctrs = np.zeros(len(log))
        self._tokens: dict[int, str] = {}
        self._was_shown = np.zeros(len(log), bool)
        self._late: list[tuple[float, int]] = []
        self._served = [Served(int(log.seconds[0]))]
        self._connections = connect_many(server, CONNECTIONS)

    def run(self) -> Replayed:
        """Send all rows, with decisions between them. Raises ReplayError, OSError."""
        started, log, pace = time.monotonic(), self._log, self._pace
        turns = log.seconds // pace.turn
        decided = int(log.seconds[0]) // pace.period
        try:
            for rows in np.split(np.arange(len(log)), np.flatnonzero(np.diff(turns)) + 1):
                now = int(log.seconds[rows[0]])
                if now // pace.period > decided:
                    decided = now // pace.period
                    self._report_old(decided * pace.period)
                    self._clock.set(1000 * decided * pace.period)
                    self._report_come(decided * pace.period)
                    self._note_decision(decided * pace.period)
                self._report_old(now)
                self._clock.set(1000 * now)
                self._turn(rows, now)
        finally:
            close_all(self._connections)
        metrics, name = self._metrics(), f'bidlight_live_decisions_total{{arm="{ARM}",decision="%s"}}'
        decisions = {str(decision): int(metrics[name % decision]) for decision in Decision}
        rate = len(log) / (time.monotonic() - started)
        return Replayed(self._pctrs, self._was_shown, self._served, decisions, rate)

    def _turn(self, rows: Rows, now: int) -> None:
        is_explored = np.zeros(len(rows), bool)
        for place, (row, answer) in enumerate(zip(rows.tolist(), self._ask(rows), strict=True)):
            (result,) = answer.results
            self._pctrs[row], self._tokens[row] = result.pctr, result.token
            is_explored[place] = answer.explore
        shown = rows if self._shows is None else self._shows(rows, self._pctrs[rows], is_explored)
        self._was_shown[shown] = True
        clicked = shown[self._log.clicks[shown]].tolist()
        come = self._come(now)
        self._late += [(now + float(self._delays[row]), row) for row in clicked]
        events = [(row, "impression") for row in shown.tolist()] + [(row, "click") for row in come]
        self._report(events)
        for row in [*np.setdiff1d(rows, clicked).tolist(), *come]:
            del self._tokens[row]

    def _come(self, until: int) -> list[int]:
        """The rows whose clicks come by then, and have not been taken."""
        come = [row for at, row in self._late if at <= until]
        self._late = [(at, row) for at, row in self._late if at > until]
        return come

    def _report_old(self, until: int) -> None:
        """Report the clicks that come by then, at the time of the last of them, if that is a while before."""
        last = max((at for at, _ in self._late if at <= until), default=until)
        if last <= until - self._pace.turn:
            self._clock.set(int(1000 * last))
            self._report_come(until)

    def _report_come(self, until: int) -> None:
        """Report the clicks that come by then: what is decided then must not miss those of the last turn."""
        come = self._come(until)
        self._report([(row, "click") for row in come])
        for row in come:
            del self._tokens[row]

    def _ask(self, rows: Rows) -> Iterator[_Answer]:
        for start in range(0, len(rows), CONNECTIONS):
            some = rows[start : start + CONNECTIONS].tolist()
            for connection, row in zip(self._connections, some, strict=False):
                connection.sendall(message_of(self._log.bodies[row]))
            for connection, _ in zip(self._connections, some, strict=False):
                status, body = _read_answer(connection)
                if status != 200:
                    raise ReplayError(f"a request must be answered 200 (got {status}: {body[:300]!r})")
                yield _decode_answer(body)

    def _report(self, events: Sequence[tuple[int, str]]) -> None:
        """Report events by their rows, again if bids wait."""
        (connection, *_) = self._connections
        for start in range(0, len(events), EVENTS_A_LIST):
            some = [
                {"token": self._tokens[row], "type": name}
                for row, name in events[start : start + EVENTS_A_LIST]
            ]
            message = message_of(json.dumps({"events": some}).encode(), _FEEDBACK)
            while True:
                connection.sendall(message)
                status, body = _read_answer(connection)
                if status != 429:
                    break
                time.sleep(BUSY_SECONDS)
            counted = json.loads(body) if status == 200 else {}
            # Of a list that was refused, and sent again, some may have been counted before.
            if sum(counted.get(name, 0) for name in ("counted", "duplicates")) != len(some):
                raise ReplayError(f"{len(some)} events must be counted (got {status}: {body[:300]!r})")

    def _note_decision(self, now: int) -> None:
        """Let the service decide, which a single process does when it is asked for metrics, and note it."""
        found = self._metrics()
        revision, intercept, slope = (
            found.get(f'bidlight_live_{name}{{arm="{ARM}"}}', 0.0)
            for name in ("revision", "intercept", "slope")
        )
        if revision != self._served[-1].revision:
            self._served.append(Served(now, int(revision), Correction(intercept, slope)))

    def _metrics(self) -> Mapping[str, float]:
        """Those of live calibration, by name with labels; others are 0."""
        status, body = self._server.get("/metrics")
        if status != 200:
            raise ReplayError(f"'/metrics' must be answered 200 (got {status})")
        found = Counter[str]()
        for line in body.decode().splitlines():
            if line.startswith("bidlight_live_"):
                name, _, value = line.rpartition(" ")
                found[name] = float(value)  # type: ignore[assignment]
        return found


def _read_answer(connection: socket.socket) -> tuple[int, bytes]:
    """Status and body of an answer whose length is declared. Raises ReplayError, OSError.

    It does little, because the client takes its time from the service on a machine of few cores.
    """
    received = b""
    while (end := received.find(b"\r\n\r\n")) < 0 or (found := _LENGTH.search(received, 0, end + 2)) is None:
        more = connection.recv(1 << 16)
        if not more or end >= 0:
            raise ReplayError(f"an answer must have a length (got {received[:300]!r})")
        received += more
    whole = end + 4 + int(found[1])
    while len(received) < whole:
        if not (more := connection.recv(1 << 16)):
            raise ReplayError("an answer must be whole (got a connection that closed)")
        received += more
    return int(received[9:12]), received[end + 4 : whole]
