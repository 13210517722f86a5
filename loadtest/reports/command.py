"""What the commands of the load tests share beside their arguments: cores, and the machine."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence

from loadtest.arguments import Parser, a_bundle, at_least_one, whole
from loadtest.processes.machine import busy_cores, describe_machine, usable_cores


class Command(Parser):
    """The command line of one load test; `name` is the program, `about` what it measures."""

    def __init__(self, name: str, about: str | None) -> None:
        super().__init__(
            prog=f"python -m {name}",
            description=about,
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        )

    def bundle(self, about: str) -> None:
        """`--bundle`: that of the demo unless told otherwise."""
        self.add_argument("--bundle", type=a_bundle, default="artifacts/demo", metavar="FOLDER", help=about)

    def number(self, flag: str, default: int, about: str) -> None:
        """An option of one whole number from 1."""
        self.add_argument(flag, type=at_least_one, default=default, metavar="N", help=about)

    def warm_up(self) -> None:
        """`--warm-up`: seconds that are not counted, before the first run of each point."""
        about = "seconds of the uncounted run before the first one of a point; 0: no such run"
        self.add_argument("--warm-up", type=whole(0), default=1, metavar="N", help=about)

    def cores(self, servers: str, clients: str) -> None:
        """`--server-core` and `--client-core`: the first and the last core unless told otherwise."""
        allowed = usable_cores()
        for flag, core, whom in (
            ("--server-core", allowed[0], servers),
            ("--client-core", allowed[-1], clients),
        ):
            self.add_argument(flag, type=int, choices=allowed, default=core, help=f"core that holds {whom}")

    def parsed(self, arguments: Sequence[str] | None) -> argparse.Namespace:
        """The options; a note says if servers and clients share a core."""
        options: argparse.Namespace = self.parse_args(arguments)
        if options.server_core == options.client_core:
            print(f"note: servers and clients share core {options.server_core}", file=sys.stderr)
        return options


def print_machine(what: str = "request") -> float:
    """Print the machine and how many of its cores were busy, which it returns; a figure is of one `what`."""
    busy = busy_cores()
    print(f"{describe_machine()}; {busy:.1f} of {len(usable_cores())} usable cores were busy before")
    if busy > 0.3:
        print(f"note: other work disturbs what follows; processor time a {what} suffers least")
    return busy


def stop_servers_on_sigterm() -> None:
    """Let SIGTERM end this process as Ctrl-C does, which stops the servers that it started."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
