"""The command line of `make rivals` -> what is measured, for how long, and on which cores."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from loadtest.arguments import a_folder_to_write, counts
from loadtest.reports.command import Command
from loadtest.rivals.contenders import CONTENDERS

SENT, KNOWN = "sent", "known"


@dataclass(frozen=True)
class Plan:
    """`seconds` is the time of a point in all rounds; `open_loop` has the shares of the peak, in percent.

    `ads` says whether requests send their candidates' features, or all servers know `known_ads` ads by id.
    """

    bundle: Path
    contenders: tuple[str, ...]
    ads: str
    known_ads: int
    candidates: tuple[int, ...]
    connections: tuple[int, ...]
    seconds: int
    rounds: int
    warm_up: int
    open_loop: tuple[int, ...]
    server_core: int
    client_core: int
    out: Path

    @property
    def known_count(self) -> int | None:
        """How many ads all servers know; None where requests send features."""
        return self.known_ads if self.ads == KNOWN else None

    @property
    def seconds_a_round(self) -> int:
        return max(1, round(self.seconds / self.rounds))


def parse(arguments: Sequence[str] | None) -> Plan:
    """Exits with status 2 and one line for a wrong option."""
    about = "Bidlight beside other servers that do the same job on one core: wrk, and an open loop."
    command = Command("loadtest.rivals", about)
    add = command.add_argument
    command.bundle("the bundle that all serve")
    known = f"whom to measure, of {', '.join(CONTENDERS)}"
    add("--contenders", type=_names, default="all", metavar="NAMES", help=known)
    ways = "whether requests send their candidates' features, or servers know them beforehand, by id"
    add("--ads", choices=(SENT, KNOWN), default=SENT, help=ways)
    command.number("--known-ads", 100_000, "ads that are known")
    add("--candidates", type=counts, default="1 10 100 500", metavar="COUNTS", help="candidates a request")
    add("--connections", type=counts, default="1 8 32 128", metavar="COUNTS", help="connections of wrk")
    command.number("--seconds", 6, "seconds a point, all rounds together")
    command.number("--rounds", 3, "rounds: each measures every point")
    command.warm_up()
    shares = "also send at these shares of the peak, in percent, whether answered or not, such as '10 50 90'"
    add("--open-loop", type=counts, default=(), metavar="PERCENTS", help=shares)
    command.cores("the servers", "the clients")
    add(
        "--out",
        type=a_folder_to_write,
        default="artifacts/rivals",
        metavar="FOLDER",
        help="where plots and JSON go",
    )
    return Plan(**vars(command.parsed(arguments)))


def _names(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(text.replace(",", " ").split()))
    if names == ("all",):
        return tuple(CONTENDERS)
    unknown = [name for name in names if name not in CONTENDERS]
    if unknown or not names:
        raise argparse.ArgumentTypeError(
            f"must be names of {', '.join(CONTENDERS)} (got {text!r}); for example 'bidlight naive'"
        )
    return names
