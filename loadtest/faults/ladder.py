"""The quality ladder under overload: what `--when-overloaded prior` costs the model, and what it adds.

A service without the ladder and one with it get the same load in turn, in several rounds. What is compared is
what they count themselves, per second of their own processor time: other work
on the machine changes that least.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from loadtest.faults.ground import Ground
from loadtest.faults.overload import GIVE_UP_MS, TMAX_MS, difference, peak_of, with_tmax
from loadtest.faults.scenario import Figures, at_least, exactly, scenario
from loadtest.load.open_client import OpenLoad
from loadtest.processes.server import Server
from loadtest.traffic.metrics import sum_of

MULTIPLE = 3
ROUNDS, QUICK_ROUNDS = 16, 2
DRAIN_SECONDS = 20.0
ANSWERS = "bidlight_answers_total"
WANTED = (
    at_least("the model's answers a CPU second, with / without", 0.93, is_timed=True),
    at_least("answers by prior", 1, is_timed=True),
    exactly("lost", 0),
)


@dataclass
class _Sum:
    """What one of the two services did over all rounds."""

    full: float = 0.0
    by_prior: float = 0.0
    refused: float = 0.0
    lost: float = 0.0
    seconds: float = 0.0
    cpu_seconds: float = 0.0


def ladder(ground: Ground, candidates: int, tmax_ms: int | None = None, *options: str) -> Figures:
    """The figures of MULTIPLE times the peak, without the ladder and with it."""
    plain = ground.requests(candidates)
    bodies = ground.write(plain, "plain")
    hasty = bodies if tmax_ms is None else ground.write([with_tmax(each, tmax_ms) for each in plain], "hasty")
    without, with_it = _Sum(), _Sum()
    with (
        ground.serving(*options) as one,
        ground.serving(*options, "--when-overloaded", "prior") as other,
    ):
        peak = peak_of(ground, one, bodies, candidates)
        load = OpenLoad(
            MULTIPLE * peak.requests_a_second,
            ground.scaled(4.0),
            ground.connections,
            drain_seconds=DRAIN_SECONDS,
            give_up_ms=GIVE_UP_MS,
            within_ms=tmax_ms,
        )
        for turn in range(QUICK_ROUNDS if ground.is_quick else ROUNDS):
            # Who is first changes: the machine may get slower or faster meanwhile.
            for server, found in ((one, without), (other, with_it))[:: 1 - 2 * (turn % 2)]:
                _add(ground, server, load, hasty, found)
    rates = [each.full / max(each.cpu_seconds, 1e-9) for each in (without, with_it)]
    return {
        "peak/s": peak.requests_a_second,
        "the model's answers a CPU second, with / without": rates[1] / max(rates[0], 1e-9),
        "the model's answers/s, without": without.full / without.seconds,
        "the model's answers/s, with": with_it.full / with_it.seconds,
        "answers by prior": with_it.by_prior,
        "answers by prior, share of the model's": with_it.by_prior / max(with_it.full, 1.0),
        "refused, without": without.refused,
        "refused, with": with_it.refused,
        "lost": without.lost + with_it.lost,
    }


def _add(ground: Ground, server: Server, load: OpenLoad, bodies: Path, found: _Sum) -> None:
    """Send the load, and add what the server did with it."""
    before, used = _answers(server), server.cpu_seconds()
    told = ground.open_loop(load, server, bodies)
    found.cpu_seconds += difference(server.cpu_seconds(), used)
    full, by_prior = (after - earlier for after, earlier in zip(_answers(server), before, strict=True))
    found.full += full
    found.by_prior += by_prior
    found.refused += told["refused"]
    found.lost += told["lost"] + told["unanswered"]
    found.seconds += load.seconds


def _answers(server: Server) -> tuple[float, float]:
    """How many the model has given, and the prior."""
    full, by_prior = (sum_of(server, ANSWERS, f'quality="{name}"') for name in ("full", "prior"))
    return full, by_prior


@scenario(*WANTED, seconds=400.0)
def ladder_100(ground: Ground) -> Figures:
    """3 times the peak, 100 candidates, without `--when-overloaded prior` and with it."""
    return ladder(ground, 100)


@scenario(*WANTED, seconds=400.0)
def ladder_100_tmax(ground: Ground) -> Figures:
    """The same by clients that wait for 50 ms."""
    return ladder(ground, 100, TMAX_MS)


@scenario(*WANTED, seconds=400.0)
def ladder_500_short_queue(ground: Ground) -> Figures:
    """Without `tmax_ms`, with 500 candidates, and a queue of rows that holds no more than four requests."""
    return ladder(ground, 500, None, "--max-candidates", "500", "--max-queued-rows", "2000")
