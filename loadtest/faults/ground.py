"""Where a scenario happens: the server that it is done to, bodies of requests, cores, and how long."""

from __future__ import annotations

import math
import resource
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from loadtest.load import closed_loop
from loadtest.load.askers import Account, Judge, asking
from loadtest.load.closed_loop import MeasurementError, Point
from loadtest.load.open_client import Figures, OpenLoad, send, sending
from loadtest.processes import tree
from loadtest.processes.server import Server, running
from loadtest.rivals.contenders import CONTENDERS, OURS, Contender
from loadtest.traffic.bid_requests import BidRequestMaker, read_samples
from loadtest.traffic.body_files import BODIES
from loadtest.traffic.hostile import FieldNames
from loadtest.traffic.known_ads import names_of
from loadtest.traffic.messages import message_of

# A quick scenario lasts, and repeats what it does, for this share of a whole one.
QUICK_SHARE = 0.25
# Of wrk: a slow server answers nothing sooner where many wait.
FEWEST_SECONDS = 3
# The others' load beside an attack: far below what a server can, so that its latency shows a stall.
OTHERS = OpenLoad(rate=100.0, seconds=6.0, connections=16)
OTHERS_CANDIDATES = 10
# Others wait for one dear request at most, as for an ordinary one of its size.
MOST_STALL_MS = 100.0
# Statuses that are planned for what a client sends.
PLANNED = {200, 400, 404, 405, 408, 413, 414, 415, 422, 429, 431}
_SECONDS_BETWEEN_LOOKS = 0.05


@dataclass(frozen=True)
class Subject:
    """The server that scenarios are done to: a contender in one of its settings.

    Bidlight may be that of another `checkout`.
    """

    contender: Contender = CONTENDERS["bidlight"]
    setting: str = ""
    python: Path = Path(sys.executable)
    checkout: Path | None = None

    def __str__(self) -> str:
        return f"{self.contender.name} ({self.setting})" if self.setting else self.contender.name

    @property
    def is_ours(self) -> bool:
        """Whether it is Bidlight."""
        return self.contender.module == OURS

    def arguments(self, bundle: Path, ours: Sequence[str]) -> list[str]:
        """Of its program. Bidlight has its defaults, and what a scenario asks for; others their setting."""
        if not self.is_ours:
            return self.contender.command(self.setting, bundle)
        return ["--arm", f"control={bundle}", "--log-level", "warning", *ours]

    @property
    def variables(self) -> dict[str, str]:
        """The variables of its environment."""
        if self.checkout is None:
            return dict(self.contender.variables)
        # Nothing is imported from the current folder, all from the other one.
        return {"PYTHONSAFEPATH": "1", "PYTHONPATH": str(self.checkout)}


@dataclass(frozen=True)
class Ground:
    """`folder` is empty and the scenario's own; `connections` are those of an overload."""

    bundle: Path
    folder: Path
    subject: Subject
    is_quick: bool = False
    connections: int = 1000
    server_core: int | None = None
    client_core: int | None = None

    @contextmanager
    def serving(
        self,
        *ours: str,
        bundle: Path | None = None,
        is_on_one_core: bool = True,
        environment: Mapping[str, str] | None = None,
    ) -> Iterator[Server]:
        """The server, ready; `ours` are options of Bidlight. Raises ServerError."""
        contender = self.subject.contender
        body = self.requests(1)[0]

        def scores(server: Server) -> bool:
            try:
                return server.post(body)[0] == 200
            except OSError:
                return False

        with running(
            contender.module,
            self.subject.arguments((bundle or self.bundle).resolve(), ours),
            python=self.subject.python,
            environment={**self.subject.variables, **(environment or {})},
            route=contender.route,
            core=self.server_core if is_on_one_core else None,
            is_ready=scores,
            seconds=contender.seconds_to_start,
        ) as server:
            yield server

    @cached_property
    def samples(self) -> list[dict[str, dict[str, object]]]:
        """The sample rows of the bundle. Raises SampleError."""
        return read_samples(self.bundle)

    @property
    def field_names(self) -> FieldNames:
        """A context field and a candidate field of the bundle."""
        return FieldNames(*(names_of(self.samples, part)[0] for part in ("context", "candidate")))

    def requests(self, candidates: int, count: int = BODIES, known_ads: int | None = None) -> list[bytes]:
        """Bodies of requests; with `known_ads`, of ads by id alone."""
        maker = BidRequestMaker(self.samples, known_ads=known_ads)
        return [maker.make(candidates).body for _ in range(count)]

    def write(self, bodies: Sequence[bytes], name: str) -> Path:
        """A file of bodies, one a line."""
        file = self.folder / f"{name}.jsonl"
        file.write_bytes(b"".join(body + b"\n" for body in bodies))
        return file

    def scaled(self, whole: float) -> float:
        """Seconds, or a count, of a whole run: less where this one is quick."""
        return whole * QUICK_SHARE if self.is_quick else whole

    def times(self, whole: int) -> int:
        """How often to do something: at least once."""
        return max(1, round(self.scaled(whole)))

    def closed_loop(self, server: Server, bodies: Path, connections: int, seconds: float) -> Point:
        """One run of wrk after a warm-up. Raises MeasurementError."""
        with suppress(MeasurementError):  # nothing is answered yet
            closed_loop.warm_up(server, bodies, connections, 1, self.client_core)
        whole = max(FEWEST_SECONDS, round(self.scaled(seconds)))
        return closed_loop.run_wrk(server, bodies, connections, whole, self.client_core)

    def open_loop(self, load: OpenLoad, server: Server, bodies: Path) -> Figures:
        """One run of the open loop. Raises MeasurementError."""
        return send(load, server, bodies, self.client_core)

    def asking(
        self,
        server: Server,
        bodies: Sequence[bytes],
        *,
        count: int = 8,
        is_kept: bool = True,
        judge: Judge | None = None,
    ) -> AbstractContextManager[Account]:
        """Clients that ask while the block runs, see `loadtest.load.askers`."""
        messages = [message_of(body, server.route) for body in bodies]
        return asking(server, messages, count=count, is_kept=is_kept, judge=judge, core=self.client_core)

    @contextmanager
    def others(self, server: Server, seconds: float = OTHERS.seconds) -> Iterator[Figures]:
        """Other clients meanwhile, for `seconds` of a whole run; their figures are there after the block.

        `others' p99 ms`, from when each request was due, and how many `others lost`: had no answer with 200.
        """
        load = OpenLoad(OTHERS.rate, max(1.5, self.scaled(seconds)), OTHERS.connections)
        bodies = self.write(self.requests(OTHERS_CANDIDATES), "others")
        found: Figures = {}
        with sending(load, server, bodies, self.client_core) as figures:
            yield found
            measured = figures()
        found["others' p99 ms"] = measured["p99_ms"]
        found["others lost"] = measured["errors"] + measured["unanswered"]


def memory_growth(server: Server, before: float | None) -> float:
    """MB of resident memory more than `before`; nan where the system does not say."""
    now = server.memory_mb()
    return math.nan if now is None or before is None else now - before


class Highest:
    """The most memory that a server was seen to have, MB."""

    def __init__(self, server: Server) -> None:
        self.megabytes = self.before = server.memory_mb() or math.nan

    @property
    def growth(self) -> float:
        """More than at the beginning; nan where the system does not say."""
        return self.megabytes - self.before


@contextmanager
def watching_memory(server: Server) -> Iterator[Highest]:
    """Looks at the memory of a server many times a second, while the block runs."""
    found, is_over = Highest(server), threading.Event()

    def watch() -> None:
        while not is_over.wait(_SECONDS_BETWEEN_LOOKS):
            found.megabytes = max(found.megabytes, server.memory_mb() or 0.0)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield found
    finally:
        is_over.set()
        thread.join()


def lines_of(server: Server) -> int:
    """How many lines it has written."""
    return len(server.output.read_bytes().splitlines())


def workers_of(server: Server) -> set[int]:
    """The processes below the first one that live."""
    return set(tree.living(tree.members(server.process_id))) - {server.process_id}


def is_alive(server: Server) -> bool:
    """Whether its first process lives."""
    return tree.living([server.process_id]) == [server.process_id]


def seconds_to_end(server: Server, most: float = 40.0) -> float:
    """How long until its first process has ended, at most `most`."""
    began = time.monotonic()
    while is_alive(server) and time.monotonic() - began < most:
        time.sleep(0.02)
    return time.monotonic() - began


def limit(server: Server, kind: int, most: int) -> None:
    """Set a limit of resources, of all its processes."""
    for process in tree.living(tree.members(server.process_id)):
        resource.prlimit(process, kind, (most, most))
