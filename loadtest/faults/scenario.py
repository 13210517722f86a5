"""A scenario: its name, what it does, the figures that are wanted of it, and the function that does it.

It knows no server. A function under `@scenario` is all that a new one needs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from loadtest.faults.ground import Ground

Figures = dict[str, float]


@dataclass(frozen=True)
class Wanted:
    """Limits of one figure.

    `is_timed`: it depends on how fast the machine is, so tests do not assert it. `is_optional`: some runs
    cannot find it.
    """

    figure: str
    least: float = -math.inf
    most: float = math.inf
    is_timed: bool = False
    is_optional: bool = False

    def __str__(self) -> str:
        if self.least == self.most:
            return f"{self.least:g}"
        return f">= {self.least:g}" if self.most == math.inf else f"<= {self.most:g}"

    def is_met(self, figures: Mapping[str, float]) -> bool:
        """Whether the figure is within the limits; nan, and one that is lacking, is not."""
        if self.is_optional and self.figure not in figures:
            return True
        return self.least <= figures.get(self.figure, math.nan) <= self.most


def exactly(figure: str, count: float) -> Wanted:
    """A figure that must be so much."""
    return Wanted(figure, count, count)


def at_least(figure: str, least: float, *, is_timed: bool = False) -> Wanted:
    """A figure that must be so much or more."""
    return Wanted(figure, least=least, is_timed=is_timed)


def at_most(figure: str, most: float, *, is_timed: bool = False, is_optional: bool = False) -> Wanted:
    """A figure that must be so much or less."""
    return Wanted(figure, most=most, is_timed=is_timed, is_optional=is_optional)


@dataclass(frozen=True)
class Scenario:
    """`run` breaks something and returns figures; those that are not wanted are shown without a limit.

    `for_any_server` can be done to other servers too. `seconds` is the longest it may take, all in all.
    """

    name: str
    about: str
    run: Callable[[Ground], Figures]
    wanted: tuple[Wanted, ...]
    for_any_server: bool
    seconds: float

    def missed(self, figures: Mapping[str, float]) -> list[Wanted]:
        """The wanted figures outside their limits; one that was not found is among them."""
        return [each for each in self.wanted if not each.is_met(figures)]


# All that were declared, by name, in the order of their declaration.
SCENARIOS: dict[str, Scenario] = {}


def scenario(
    *wanted: Wanted, for_any_server: bool = False, seconds: float = 120.0
) -> Callable[[Callable[[Ground], Figures]], Callable[[Ground], Figures]]:
    """Declare the function below as a scenario: it has its name, and its docstring says what it does."""

    def declare(run: Callable[[Ground], Figures]) -> Callable[[Ground], Figures]:
        name, about = run.__name__, " ".join((run.__doc__ or "").split()).rstrip(".")
        SCENARIOS[name] = Scenario(name, about, run, wanted, for_any_server, seconds)
        return run

    return declare
