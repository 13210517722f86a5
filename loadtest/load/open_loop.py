"""Sends bid requests at a fixed rate with Poisson arrivals, and counts latency from when each was due.

An open loop: a request is sent when it is due, whether others were answered or not, as an exchange does. Its
latency starts at that moment, not when a connection was free or this client got to it, so a stall of the
server counts for every request due in it (no coordinated omission). With `give_up_ms` a request that could
not be sent so long after it was due is not sent any more, as by an exchange that needs no late answer; then
`sent_a_second` is what the server was really offered.

The client is one thread with plain sockets and epoll; messages are made beforehand, and of an answer it reads
no more than its status and its end. Its ceiling is its own time a request, ten microseconds for a small one
and more where the kernel has much to copy. It measures itself: `lag` is how late it sent a request that was
due, `busy` the share of time in which it had work. A run is marked as limited by the client if lag is a
considerable part of the latency or the client had no idle time.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import random
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from time import perf_counter
from urllib.parse import urlsplit

from loadtest.arguments import (
    Parser,
    a_file,
    at_least_one,
    ended,
    failed,
    positive,
    positive_or_endless,
    whole,
)
from loadtest.load.open_run import Run
from loadtest.processes.server import PREDICT, Route
from loadtest.traffic.messages import message_of

# A lag below either of these does not matter.
UNIMPORTANT_MS, UNIMPORTANT_SHARE = 0.1, 0.1
MOST_BUSY = 0.95


@dataclass(frozen=True)
class OpenPoint:
    """The result of one rate. A request never answered counts in the percentiles with the age it reached.

    Rates are of requests due, sent, and answered with status 200, whose latencies are the percentiles;
    `within` is the share of these that took `within_ms` at most. `errors` are all other answers and lost
    requests; of these, `refused` have status 429, `lost` are those whose connection closed. `unsent` were
    given up, `unanswered` still waited at the end.
    """

    asked_a_second: float
    sent_a_second: float
    answered_a_second: float
    answered: int
    p50_ms: float
    p99_ms: float
    p999_ms: float
    within: float
    errors: int
    refused: int
    lost: int
    unsent: int
    unanswered: int
    lag_p99_ms: float
    busy: float

    @property
    def limited_by_client(self) -> bool:
        """Whether the client was so late that the p99 is partly its own, or had no idle time."""
        late = self.lag_p99_ms > max(UNIMPORTANT_MS, UNIMPORTANT_SHARE * self.p99_ms)
        return late or self.busy > MOST_BUSY


def arrivals(rate: float, seconds: float, seed: int = 0) -> list[float]:
    """Seconds from the start at which requests are due; the gaps are exponential with mean 1/rate."""
    draw, due, now = random.Random(seed), [], 0.0
    while (now := now + draw.expovariate(rate)) < seconds:
        due.append(now)
    return due


def percentile(ordered: Sequence[float], percent: float) -> float:
    """The value that `percent` of the values do not exceed; nan without values."""
    if not ordered:
        return math.nan
    return ordered[max(1, math.ceil(len(ordered) * percent / 100.0)) - 1]


def measure(
    url: str,
    bodies: Sequence[bytes],
    *,
    rate: float,
    seconds: float,
    connections: int,
    route: Route = PREDICT,
    seed: int = 0,
    drain_seconds: float = 2.0,
    give_up_ms: float = math.inf,
    within_ms: float = math.inf,
) -> OpenPoint:
    """One run. Raises OSError if it cannot connect, ValueError for answers that it cannot read."""
    parts = urlsplit(url)
    requests = [message_of(body, route) for body in bodies]
    planned = arrivals(rate, seconds, seed) or [0.0]
    address = (parts.hostname or "", parts.port or 80)
    run = Run(address, requests, [], drain_seconds, give_up_ms / 1e3)
    try:
        for _ in range(connections):
            run.connect()
        gc.disable()
        start = perf_counter() + 0.05
        run.due = [start + due for due in planned]
        run.drive()
    finally:
        gc.enable()
        run.close()
    return _summary(run, rate, perf_counter(), start, within_ms)


def _summary(run: Run, rate: float, now: float, start: float, within_ms: float) -> OpenPoint:
    # With a limit, what waits for a connection at the end is given up too.
    waiting = [*run.waiting, *run.due[run.next :]]
    given_up = len(waiting) if run.give_up < math.inf else 0
    under_way = [each.due for each in run.connections.values() if not each.is_free]
    unanswered = [now - due for due in (*under_way, *([] if given_up else waiting))]
    latencies, lags = sorted([*run.latencies, *unanswered]), sorted(run.lags)
    lasted = max(run.last_answer - start, 1e-9)
    answered = len(run.latencies)
    return OpenPoint(
        asked_a_second=rate,
        sent_a_second=run.sent / max(run.due[-1] - start, 1e-9),
        answered_a_second=answered / lasted,
        answered=answered,
        p50_ms=percentile(latencies, 50.0) * 1e3,
        p99_ms=percentile(latencies, 99.0) * 1e3,
        p999_ms=percentile(latencies, 99.9) * 1e3,
        within=sum(each <= within_ms / 1e3 for each in run.latencies) / max(1, answered),
        errors=run.errors,
        refused=run.refused,
        lost=run.lost,
        unsent=run.unsent + given_up,
        unanswered=len(unanswered),
        lag_p99_ms=percentile(lags, 99.0) * 1e3,
        busy=run.busy,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; the exit status."""
    parser = Parser(prog="python -m loadtest.load.open_loop", description=__doc__)
    add = parser.add_argument
    add("url", type=_url, help="the server, such as http://127.0.0.1:8000")
    add("--bodies", type=a_file, required=True, metavar="FILE", help="bodies of requests, one a line")
    add("--rate", type=positive, required=True, metavar="N", help="requests a second")
    add("--seconds", type=positive, default=5.0, metavar="N", help="how long to send")
    add("--connections", type=at_least_one, default=128, metavar="N", help="requests under way at most")
    add("--path", default="/predict", help="where to POST")
    more = "a header more; repeatable"
    add("--header", type=_header, action="append", default=[], metavar="'NAME: VALUE'", help=more)
    add("--seed", type=whole(0), default=0, metavar="N", help="of the arrivals")
    add("--drain-seconds", type=positive, default=2.0, metavar="N", help="how long to wait for late answers")
    patience = "send a request no more that could not be sent so long after it was due"
    add("--give-up-ms", type=positive_or_endless, default=math.inf, metavar="MS", help=patience)
    limit = "count the answers with status 200 that take so long at most"
    add("--within-ms", type=positive_or_endless, default=math.inf, metavar="MS", help=limit)
    options = parser.parse_args(arguments)
    try:
        point = measure(
            options.url,
            options.bodies.read_bytes().splitlines(),
            rate=options.rate,
            seconds=options.seconds,
            connections=options.connections,
            route=Route(options.path, dict(options.header)),
            seed=options.seed,
            drain_seconds=options.drain_seconds,
            give_up_ms=options.give_up_ms,
            within_ms=options.within_ms,
        )
    except (OSError, ValueError) as error:
        return failed(parser.prog, error)
    print(json.dumps({**asdict(point), "limited_by_client": point.limited_by_client}))
    return 0


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(": ")
    if not (name and colon):
        raise argparse.ArgumentTypeError(f"must be NAME: VALUE (got {text!r})")
    return name, value


def _url(text: str) -> str:
    found = urlsplit(text)
    if found.scheme != "http" or not found.hostname:
        raise argparse.ArgumentTypeError(f"must be like http://127.0.0.1:8000 (got {text!r})")
    return text


if __name__ == "__main__":
    sys.exit(ended(main))
