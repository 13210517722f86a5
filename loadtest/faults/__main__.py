"""`make faults`: breaks a real service in many ways, and prints the figures that are wanted and found.

Each scenario starts the service anew and says at its end what it missed. Then there is a table of all figures
and a line of JSON for each scenario; the exit status is 1 if the service missed a wanted figure. With
`--rivals` the scenarios that fit any server are done to other servers too.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
from collections.abc import Sequence
from pathlib import Path

from loadtest.arguments import a_checkout, a_file_to_write, ended, failed
from loadtest.faults import report
from loadtest.faults.catalogue import SCENARIOS
from loadtest.faults.ground import Subject
from loadtest.faults.runner import Plan, Result, run
from loadtest.faults.scenario import Scenario
from loadtest.processes.machine import missing_tools
from loadtest.processes.redis_server import missing_redis
from loadtest.reports.command import Command, print_machine, stop_servers_on_sigterm
from loadtest.rivals.contenders import CONTENDERS, Contender
from loadtest.rivals.environments import CannotInstall, Environments
from loadtest.traffic.bid_requests import SampleError


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; the exit status."""
    options = _parse(arguments)
    if options.list:
        print(report.listing(options.only))
        return 0
    if lack := missing_tools() or missing_redis():
        return failed("faults", lack)
    stop_servers_on_sigterm()
    _allow_files()
    print_machine()
    plan = Plan(options.bundle, options.quick, options.connections, options.server_core, options.client_core)
    results, out = list[Result](), Path(os.devnull) if options.out is None else options.out
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("w", encoding="utf-8") as file:
        for subject in [Subject(checkout=options.checkout), *_subjects(options.rivals)]:
            for each in options.only:
                if subject.is_ours or each.for_any_server:
                    results.append(run(plan, subject, each))
                    print(report.of(results[-1]), flush=True)
                    print(json.dumps(report.as_json(results[-1])), file=file, flush=True)
    print(f"\n{report.table(results)}\n")
    for each in results:
        print(json.dumps(report.as_json(each)))
    return int(any(each.missed for each in results if each.subject.is_ours))


def _subjects(names: Sequence[str]) -> list[Subject]:
    """The rivals that can be installed; the others are named."""
    found = []
    for name in names:
        contender = CONTENDERS[name]
        try:
            python = Path(sys.executable)
            if contender.environment is not None:
                python = Environments().python_of(
                    contender.environment, system_python=contender.system_python
                )
        except CannotInstall as error:
            print(f"left out: {name} could not be installed: {error}")
            continue
        found.append(Subject(contender, _setting(contender), python))
    return found


def _setting(contender: Contender) -> str:
    """Batches of 32 within a millisecond where there are such: what is best with many connections."""
    settings = list(contender.settings)
    return next((each for each in settings if "batch 32, 1 ms" in each), settings[0])


def _allow_files() -> None:
    """Let this process and the servers below it open as many files as the system allows."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _scenarios(text: str) -> tuple[Scenario, ...]:
    names = text.replace(",", " ").split()
    unknown = [name for name in names if name not in SCENARIOS]
    if unknown or not names:
        raise argparse.ArgumentTypeError(f"must be names of scenarios (got {text!r}); --list names all")
    return tuple(SCENARIOS[name] for name in names)


def _rivals(text: str) -> tuple[str, ...]:
    names = tuple(text.replace(",", " ").split())
    unknown = [name for name in names if name not in CONTENDERS]
    if unknown:
        raise argparse.ArgumentTypeError(f"must be names of {', '.join(CONTENDERS)} (got {text!r})")
    return names


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    command = Command("loadtest.faults", __doc__)
    add = command.add_argument
    command.bundle("the bundle to serve")
    add("--only", type=_scenarios, metavar="NAMES", help="some of the scenarios, instead of all")
    add("--list", action="store_true", help="print the scenarios with what is wanted, and end")
    command.only_tells = "list"
    add("--quick", action="store_true", help="shorter loads and fewer repetitions")
    command.number("--connections", 1000, "connections of an overload")
    add("--rivals", type=_rivals, default=(), metavar="NAMES", help="other servers, of make rivals")
    add("--checkout", type=a_checkout, metavar="FOLDER", help="another checkout, whose service to break")
    command.cores("a server of one process", "the clients")
    add("--out", type=a_file_to_write, metavar="FILE", help="where the lines of JSON go too")
    options = command.parsed(arguments)
    options.only = options.only or tuple(SCENARIOS.values())
    options.checkout = None if options.checkout is None else options.checkout.resolve()
    return options


if __name__ == "__main__":
    sys.exit(ended(main, correctable=(SampleError,)))
