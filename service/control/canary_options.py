"""The command line of `canary`: what to do, and the options of a plan; it asks no service."""

from __future__ import annotations

import argparse
from collections.abc import Callable

import msgspec

from service.control.protocol import Leading, PromoteCanary, StartCanary, Status, StopCanary
from service.errors import BadConfiguration
from service.rollout.plan import Plan, check_plan

STATUS, STOP, PROMOTE = "status", "stop", "promote"
# What each number of a plan is, for people.
NUMBERS = {
    "hold_seconds": "how long a step lasts, unless --impressions are judged before",
    "impressions": "go on once so many impressions of the arm are judged in the step; 0: never",
    "requests": "that the arm must answer in a step before it goes on",
    "known_clicks": "independent clicks of the arm that must be judged before it has all traffic, and before "
    "it has a part, that part of them; 0: none",
    "alpha": "chance that the gates take back an arm with which nothing is wrong",
    "errors": "share of its requests that may fail",
    "slower_ms": "by how many milliseconds a quantile of latency may exceed control's, and",
    "slower": "by which share of it, both together",
    "psi": "population stability index of pCTRs that is tolerated",
    "pcoc": "by which share PCOC may be off",
    "logloss": "by which share LogLoss may exceed control's",
    "clicks": "by which share clicks per bid may fall below control's",
}


def add_canary(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument(
        "what",
        metavar=f"ARM|{STATUS}|{STOP}|{PROMOTE}",
        help="the arm that begins; or show the canary, take it back, or give it all traffic at once",
    )
    parser.add_argument("--of", metavar="ARM", help="whose traffic it earns [the control arm]")
    default = Plan()
    parser.add_argument(
        "--steps",
        type=_steps,
        metavar="N,...",
        help="percentages of the traffic of both arms "
        f"[{','.join(f'{step:g}' for step in default.steps)}]".replace("%", "%%"),
    )
    for name, text in NUMBERS.items():
        value = getattr(default, name)
        parser.add_argument(
            "--" + name.replace("_", "-"), type=type(value), metavar="N", help=f"{text} [{value:g}]"
        )


def canary_of(options: argparse.Namespace) -> Leading | Status:
    """The command. Raises BadConfiguration for options that no canary can have."""
    given = {
        name: value for name in ("steps", *NUMBERS) if (value := getattr(options, name, None)) is not None
    }
    others: dict[str, Callable[[], Leading | Status]] = {
        STATUS: Status,
        STOP: StopCanary,
        PROMOTE: PromoteCanary,
    }
    if options.what in others:
        if given or getattr(options, "of", None):
            raise BadConfiguration(f"'{options.what}' must be without options (got some); they are of an arm")
        return others[options.what]()
    try:
        plan = msgspec.convert(given, Plan)
    except msgspec.ValidationError as error:
        raise BadConfiguration(f"an option of a canary must be possible: {error}; see --help") from None
    check_plan(plan)
    return StartCanary(options.what, getattr(options, "of", None), plan)


def _steps(text: str) -> tuple[float, ...]:
    """Percentages. Raises ArgumentTypeError."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"must be percentages with commas between them (got {text!r}); for example 1,5,25,100"
        ) from None
