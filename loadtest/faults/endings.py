"""Endings: the service is told to stop under load, and workers are killed."""

from __future__ import annotations

import os
import signal
import time

from loadtest.faults.ground import Ground, seconds_to_end, workers_of
from loadtest.faults.scenario import Figures, Wanted, at_least, exactly, scenario
from loadtest.processes.server import Server

CLIENTS = 16
SIGNALS = (signal.SIGTERM, signal.SIGINT)
WORKERS = (1, 2)
SECONDS_TO_END = 15.0
STOPS = 10


def stop(ground: Ground, *, is_kept: bool) -> Figures:
    """Stop a service under load, again and again: each request that was accepted is answered."""
    figures = {"answered": 0.0, "other answers": 0.0, "did not end": 0.0}
    bodies = ground.requests(2)
    for workers in WORKERS:
        for number in SIGNALS:
            lost = 0
            for _ in range(1 if ground.is_quick else STOPS):
                with (
                    ground.serving("--workers", str(workers), is_on_one_core=False) as server,
                    ground.asking(server, bodies, count=CLIENTS, is_kept=is_kept) as account,
                ):
                    time.sleep(0.5)
                    os.kill(server.process_id, number)
                    took = seconds_to_end(server, SECONDS_TO_END)
                lost += account.lost
                figures["answered"] += account.answered
                figures["other answers"] += account.other_answers
                figures["did not end"] += took >= SECONDS_TO_END
            figures[lost_at(number, workers)] = lost
    return figures


def lost_at(number: signal.Signals, workers: int) -> str:
    """The name of a figure."""
    return f"lost, {number.name}, {workers} worker{'s' if workers > 1 else ''}"


def of_stops() -> tuple[Wanted, ...]:
    """What is wanted of stops."""
    none = [exactly(lost_at(number, workers), 0) for workers in WORKERS for number in SIGNALS]
    return (*none, exactly("other answers", 0), exactly("did not end", 0), at_least("answered", 100))


@scenario(*of_stops(), seconds=400)
def stop_fresh(ground: Ground) -> Figures:
    """SIGTERM and SIGINT while clients open a connection for each request, 1 and 2 workers."""
    return stop(ground, is_kept=False)


@scenario(*of_stops(), seconds=400)
def stop_kept(ground: Ground) -> Figures:
    """The same with clients that keep their connections."""
    return stop(ground, is_kept=True)


@scenario(
    exactly("lost beyond those under way", 0),
    exactly("refused", 0),
    exactly("other answers", 0),
    exactly("workers", 2),
    at_least("answered", 50),
)
def workers_killed(ground: Ground) -> Figures:
    """kill -9 of a worker under load, several times: it takes what it was answering with it, no more."""
    times = max(2, ground.times(8))
    with ground.serving("--workers", "2", is_on_one_core=False) as server:
        with ground.asking(server, ground.requests(2), count=CLIENTS, is_kept=False) as account:
            for _ in range(times):
                time.sleep(0.3)
                before = workers_of(server)
                os.kill(min(before), signal.SIGKILL)
                _wait_for_another(server, before)
        alive = len(workers_of(server))
    return {
        "answered": account.answered,
        "lost": account.lost,
        "lost beyond those under way": max(0, account.lost - times * CLIENTS),
        "refused": account.refused,
        "other answers": account.other_answers,
        "workers": alive,
    }


def _wait_for_another(server: Server, before: set[int], seconds: float = 15.0) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        now = workers_of(server)
        if len(now) == len(before) and now != before:
            return
        time.sleep(0.05)
