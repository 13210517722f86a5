"""Reloads: many under load, while metrics are scraped, and of bundles that were forged."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from loadtest.faults.ground import (
    Ground,
    is_alive,
    limit,
    memory_growth,
    seconds_to_end,
    watching_memory,
    workers_of,
)
from loadtest.faults.scenario import Figures, at_least, at_most, exactly, scenario
from loadtest.load.askers import Judge, asking
from loadtest.processes.server import Server
from loadtest.traffic import forged
from loadtest.traffic.metrics import sum_of

CANDIDATES = 10
RELOADS = "bidlight_reloads_total"
REFUSED = 'outcome="refused"'
SECONDS_TO_RELOAD = 30.0
# What a service may take, so that a forged bundle stops it and not the machine.
MOST_ADDRESSES = 8_000_000_000
# How long a bundle may take to load.
IMPATIENT = {"BIDLIGHT_LOAD_SECONDS": "10"}
SCRAPE = b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


class Arm:
    """A folder from which an arm is served, and another bundle that takes its place."""

    def __init__(self, ground: Ground, make: Callable[[Path, Path], Path]) -> None:
        self.folder = shutil.copytree(ground.bundle, ground.folder / "arm")
        self._other = make(ground.bundle, ground.folder / "other")

    def swap(self) -> None:
        """Rename the one into the place of the other, as a bundle is to be replaced."""
        aside = self.folder.with_name("aside")
        self.folder.rename(aside)
        self._other.rename(self.folder)
        aside.rename(self._other)

    def reload(self, server: Server) -> bool:
        """Serve the other one; whether that came to an end in time, refused or not."""
        before, deadline = sum_of(server, RELOADS), time.monotonic() + SECONDS_TO_RELOAD
        self.swap()
        os.kill(server.process_id, signal.SIGHUP)
        while time.monotonic() < deadline:
            if sum_of(server, RELOADS) > before:
                return True
            time.sleep(0.05)
        return False


def answers_of(server: Server, bodies: Sequence[bytes]) -> list[bytes]:
    """The bytes of the answers. Raises OSError."""
    return [server.post(body)[1] for body in bodies]


def one_of(*known: Sequence[bytes]) -> Judge:
    """A judge: an answer is right if it is that of one of the bundles, byte for byte."""
    return lambda index, answer: any(answers[index] == answer for answers in known)


def reload_many(ground: Ground, workers: int, count: int) -> Figures:
    """`count` reloads of two bundles in turn under load; every answer is one of these two's."""
    bodies, arm = ground.requests(CANDIDATES, 32), Arm(ground, forged.recalibrated)
    with ground.serving("--workers", str(workers), bundle=arm.folder, is_on_one_core=False) as server:
        ours = answers_of(server, bodies)
        arm.reload(server)
        time.sleep(1.5)  # of several workers, one that stops may still answer
        theirs = answers_of(server, bodies)
        before, in_time = None, 0
        with ground.asking(server, bodies, judge=one_of(ours, theirs)) as account:
            for number in range(count):
                in_time += arm.reload(server)
                if number == count // 5:  # what the first ones take, later ones use again
                    before = server.memory_mb()
        time.sleep(1.5)
        return {
            "bundles differ": float(ours != theirs),
            "reloads not done": count - in_time,
            "reloads refused": sum_of(server, RELOADS, REFUSED),
            "answered": account.answered,
            "wrong answers": account.wrong,
            "other answers": account.other_answers,
            "lost": account.lost,
            "memory growth MB": memory_growth(server, before),
        }


OF_RELOADS = (
    exactly("bundles differ", 1),
    exactly("reloads not done", 0),
    exactly("reloads refused", 0),
    exactly("wrong answers", 0),
    exactly("other answers", 0),
    exactly("lost", 0),
    at_least("answered", 50),
)


@scenario(*OF_RELOADS, at_most("memory growth MB", 60), seconds=300)
def reloads(ground: Ground) -> Figures:
    """50 reloads of two bundles in turn, under load, one process."""
    return reload_many(ground, 1, 5 if ground.is_quick else 50)


@scenario(*OF_RELOADS, at_most("memory growth MB", 60), seconds=300)
def reloads_of_workers(ground: Ground) -> Figures:
    """The same with two workers, 20 times."""
    return reload_many(ground, 2, 3 if ground.is_quick else 20)


@scenario(exactly("scrapes not 200", 0), exactly("scrapes lost", 0), at_least("scrapes", 20), seconds=300)
def scrapes_during_reloads(ground: Ground) -> Figures:
    """/metrics is scraped without pause while two workers are replaced by reloads, 10 times."""
    arm = Arm(ground, forged.recalibrated)
    with (
        ground.serving("--workers", "2", bundle=arm.folder, is_on_one_core=False) as server,
        asking(server, [SCRAPE], count=4, is_kept=False, core=ground.client_core) as account,
    ):
        for _ in range(max(2, ground.times(10))):
            arm.reload(server)
            time.sleep(0.2)
    return {
        "scrapes": account.answered,
        "scrapes not 200": account.other_answers,
        "scrapes lost": account.lost + account.refused,
    }


def reload_forged(ground: Ground, make: Callable[[Path, Path], Path]) -> Figures:
    """A reload of a forged bundle: it is refused in time, and nothing else happens."""
    bodies, arm = ground.requests(CANDIDATES, 32), Arm(ground, make)
    with ground.serving(
        "--workers", "2", bundle=arm.folder, is_on_one_core=False, environment=IMPATIENT
    ) as server:
        limit(server, resource.RLIMIT_AS, MOST_ADDRESSES)
        expected, before = answers_of(server, bodies), workers_of(server)
        with (
            ground.asking(server, bodies, judge=one_of(expected)) as account,
            watching_memory(server) as memory,
        ):
            arm.reload(server)
            time.sleep(0.5)
        refused, dead, lives = sum_of(server, RELOADS, REFUSED), before - workers_of(server), is_alive(server)
        os.kill(server.process_id, signal.SIGTERM)
        seconds = seconds_to_end(server)
    return {
        "reloads refused": refused,
        "answered": account.answered,
        "wrong answers": account.wrong,
        "other answers": account.other_answers,
        "lost": account.lost,
        "workers gone": len(dead),
        "supervisor lives": float(lives),
        "memory growth MB": memory.growth,
        "stops in s": seconds,
    }


OF_FORGERIES = (
    exactly("reloads refused", 1),
    exactly("wrong answers", 0),
    exactly("other answers", 0),
    exactly("lost", 0),
    exactly("workers gone", 0),
    exactly("supervisor lives", 1),
    at_most("memory growth MB", 300),
    at_most("stops in s", 5, is_timed=True),
    at_least("answered", 50),
)


@scenario(*OF_FORGERIES)
def forged_sequence(ground: Ground) -> Figures:
    """A bundle with a field of a hundred million elements a row."""
    return reload_forged(ground, forged.endless_sequence)


@scenario(*OF_FORGERIES)
def forged_cardinality(ground: Ground) -> Figures:
    """A bundle with a field of a hundred million ids."""
    return reload_forged(ground, forged.huge_cardinality)


@scenario(*OF_FORGERIES)
def forged_tolerance(ground: Ground) -> Figures:
    """A bundle whose golden logits are wrong, within a tolerance of 1e300."""
    return reload_forged(ground, forged.wrong_within_tolerance)


@scenario(*OF_FORGERIES)
def forged_loop(ground: Ground) -> Figures:
    """A bundle whose graphs never end."""
    return reload_forged(ground, forged.endless_loop)


@scenario(*OF_FORGERIES)
def forged_constant(ground: Ground) -> Figures:
    """A bundle whose graphs make a constant of gigabytes."""
    return reload_forged(ground, forged.huge_constant)


@scenario(*OF_FORGERIES)
def forged_noise(ground: Ground) -> Figures:
    """A bundle whose graphs score a row differently each time."""
    return reload_forged(ground, forged.random_logits)
