"""Starts the contenders, checks that their answers agree, and measures them in turns; it knows HTTP only."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from loadtest.load import closed_loop
from loadtest.load.closed_loop import Case, Point
from loadtest.processes.server import Server, ServerError, running
from loadtest.rivals.contenders import CONTENDERS, Contender
from loadtest.rivals.environments import CannotInstall, Environments
from loadtest.rivals.figures import Entry
from loadtest.rivals.plan import Plan
from loadtest.traffic.answers import Answer, WrongAnswer, ask, compare
from loadtest.traffic.known_ads import KnownAds

CHECKED_BODIES = 32
CHECKED_AT_ONCE = 16


@dataclass
class Measured:
    """The points of every setting, and why a contender, a setting or a point is missing."""

    points: dict[tuple[Entry, Case], Point] = field(default_factory=dict)
    left_out: list[dict[str, str]] = field(default_factory=list)
    bundle: str = ""
    rows_compared: int = 0

    def leave_out(self, who: str, why: object) -> None:
        self.left_out.append({"contender": who, "reason": " ".join(str(why).split())})


Tell = Callable[[str], object]


@contextmanager
def started(
    plan: Plan,
    first_body: bytes,
    measured: Measured,
    tell: Tell,
    known_ads: KnownAds | None = None,
    *,
    contenders: Mapping[str, Contender] = CONTENDERS,
    environments: Environments | None = None,
) -> Iterator[dict[Entry, Server]]:
    """Every setting of every contender, ready and paused; `measured` records those that do not start.

    Each has read `known_ads`, if given, by the time it is ready.
    """

    def scores(server: Server) -> bool:
        try:
            return server.post(first_body)[0] == 200
        except OSError:
            return False

    servers: dict[Entry, Server] = {}
    with ExitStack() as stack:
        for contender in (contenders[name] for name in plan.contenders):
            try:
                python = _python(contender, environments or Environments(), tell)
            except CannotInstall as error:
                measured.leave_out(contender.name, f"it could not be installed: {error}")
                continue
            for setting in contender.settings:
                entry = Entry(contender.name, setting)
                tell(f"starting {entry}")
                server = running(
                    contender.module,
                    contender.command(setting, plan.bundle.resolve(), known_ads),
                    python=python,
                    environment=contender.variables,
                    route=contender.route,
                    core=plan.server_core,
                    is_ready=scores,
                    seconds=contender.seconds_to_start,
                )
                try:
                    servers[entry] = stack.enter_context(server)
                    servers[entry].pause()
                except ServerError as error:
                    measured.leave_out(str(entry), error)
        yield servers


def _python(contender: Contender, environments: Environments, tell: Tell) -> Path:
    if contender.environment is None:
        return Path(sys.executable)
    tell(f"environment of {contender.name}")
    return environments.python_of(contender.environment, system_python=contender.system_python)


class Reference:
    """The first server's answers to some of the bodies that are timed; all servers must give the same."""

    def __init__(
        self, servers: Mapping[Entry, Server], files: Mapping[int, Path], measured: Measured
    ) -> None:
        self._servers, self._measured = servers, measured
        self._entry, server = next(iter(servers.items()))
        self._bodies = {size: file.read_bytes().splitlines()[:CHECKED_BODIES] for size, file in files.items()}
        self._answers: dict[int, list[Answer]] = {}
        server.resume()
        for size, bodies in self._bodies.items():
            self._answers[size] = ask(server, bodies)
            measured.bundle = str(self._answers[size][0]["bundle"])
        server.pause()

    def check(self, entry: Entry, case: Case) -> None:
        """Ask as many requests at once as are timed, up to CHECKED_AT_ONCE, so that batches are checked."""
        at_once = min(case.connections, CHECKED_AT_ONCE)
        found = ask(self._servers[entry], self._bodies[case.candidates], at_once)
        try:
            self._measured.rows_compared += compare(self._answers[case.candidates], found)
        except WrongAnswer as error:
            raise WrongAnswer(f"{error}; the first are of {self._entry}") from None


def measure_closed(
    plan: Plan,
    servers: Mapping[Entry, Server],
    files: Mapping[int, Path],
    reference: Reference,
    measured: Measured,
    tell: Tell,
) -> None:
    """Measure every point with wrk into `measured`."""
    names = {str(entry): entry for entry in servers}
    points, failures = closed_loop.measure(
        {name: servers[entry] for name, entry in names.items()},
        cases_of(plan.candidates, plan.connections),
        lambda _, case: files[case.candidates],
        seconds=plan.seconds_a_round,
        repetitions=plan.rounds,
        warm_up_seconds=plan.warm_up,
        core=plan.client_core,
        check=lambda name, case: reference.check(names[name], case),
        tell=tell,
    )
    measured.points = {(names[name], case): point for (name, case), point in points.items()}
    for name in dict.fromkeys(name for name, _ in failures):
        (case, reason), *others = [(case, reason) for (who, case), reason in failures.items() if who == name]
        where = f"{case.candidates} candidates x {case.connections} connections"
        more = f", and {len(others)} more points" if others else ""
        wrote = servers[names[name]].last_output() or "nothing"
        measured.leave_out(
            name, f"failed at {where}{more} (rounds before count): {reason}; it wrote: {wrote}"
        )


def cases_of(candidates: Sequence[int], connections: Sequence[int]) -> list[Case]:
    """Every size with every number of connections."""
    return [Case(size, count) for size in candidates for count in connections]
