"""Runs a scenario on a ground of its own, for a bounded time; whatever it raises is a result too."""

from __future__ import annotations

import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from loadtest.faults.ground import Ground, Subject
from loadtest.faults.scenario import Figures, Scenario
from loadtest.traffic.bid_requests import SampleError


@dataclass(frozen=True)
class Plan:
    """What all scenarios share."""

    bundle: Path
    is_quick: bool = False
    connections: int = 1000
    server_core: int | None = None
    client_core: int | None = None


@dataclass(frozen=True)
class Result:
    """The figures of a scenario, and why it did not come to its end, if it did not."""

    plan: Plan
    scenario: Scenario
    subject: Subject
    figures: Figures
    seconds: float
    failure: str = ""

    @property
    def missed(self) -> list[str]:
        """The wanted figures that were not found or are outside their limits."""
        return [each.figure for each in self.scenario.missed(self.figures)]


class TookTooLong(RuntimeError):
    """A scenario did not end within its time."""


def run(plan: Plan, subject: Subject, scenario: Scenario) -> Result:
    """One scenario. Raises SampleError for a bundle without sample requests."""
    began, figures, failure = time.monotonic(), Figures(), ""
    with tempfile.TemporaryDirectory() as folder:
        ground = Ground(
            plan.bundle,
            Path(folder),
            subject,
            plan.is_quick,
            plan.connections,
            plan.server_core,
            plan.client_core,
        )
        try:
            with _at_most(scenario.seconds):
                figures = scenario.run(ground)
        except SampleError:
            raise
        except (OSError, RuntimeError, ValueError) as error:
            failure = f"{type(error).__name__}: {' '.join(str(error).split())}"
    return Result(plan, scenario, subject, figures, time.monotonic() - began, failure)


@contextmanager
def _at_most(seconds: float) -> Iterator[None]:
    """Raises TookTooLong in the block after so long."""

    def interrupt(_: int, __: FrameType | None) -> None:
        raise TookTooLong(f"it must end within {seconds:g} s")

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)
