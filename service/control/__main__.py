"""`python -m service.control`: see and change what a running service serves, through its control socket.

The exit status is 0 once all workers have done it, 1 if the service refuses, 2 for a command line that cannot
be read, and 3 if no service answers.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import NoReturn

import msgspec

from service.arms.shadowing import check_share
from service.arms.split import check_weight
from service.control.canary_options import STATUS, add_canary, canary_of
from service.control.client import ControlClient, Unreachable
from service.control.protocol import (
    Answer,
    Calibrating,
    Calibration,
    Command,
    Done,
    EndShadow,
    Freeze,
    Kill,
    Leading,
    Reload,
    ReloadStatus,
    Reset,
    Revive,
    Rollback,
    ServiceStatus,
    Shadow,
    Status,
    Thaw,
    Weights,
)
from service.control.tables import calibration_table_of, canary_table_of, table_of
from service.errors import BadConfiguration, ServiceError

PROGRAM = "python -m service.control"
VARIABLE = "BIDLIGHT_CONTROL_SOCKET"
REFUSED, UNREACHABLE, INTERRUPTED = 1, 3, 130
# How long a worker may take to follow, and how often it is looked at.
FOLLOW_SECONDS = 10.0
LOOK_SECONDS = 0.05


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry out one command; the exit status. An error is one line."""
    parser = build_parser()
    options = parser.parse_args(arguments)
    if not options.control_socket:
        parser.error(
            f"'--control-socket' must be the path that the service has (got none); or set {VARIABLE}"
        )
    try:
        command: Command = options.make(options)
    except BadConfiguration as error:
        parser.error(str(error))
    try:
        return _carry_out(command, options)
    except Unreachable as error:
        return _complain(str(error), UNREACHABLE)
    except ServiceError as error:
        return _complain(str(error), REFUSED)
    except KeyboardInterrupt:
        return _complain("interrupted; what the service was asked for goes on", INTERRUPTED)


def build_parser() -> argparse.ArgumentParser:
    """A parser with a command each; options may stand before or after it."""
    shared = _Parser(add_help=False, argument_default=argparse.SUPPRESS)
    _add_shared(shared)
    parser = _Parser(prog=PROGRAM, description="See and change what a running service serves.")
    _add_shared(parser)
    parser.set_defaults(control_socket=os.environ.get(VARIABLE, ""), json=False, timeout_seconds=30.0)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def add(name: str, text: str, make: Callable[[argparse.Namespace], Command]) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text, parents=[shared])
        command.set_defaults(make=make)
        return command

    add("status", "arms, weights, shares, bundles, what is killed, and the workers", lambda _: Status())
    weights = add("weights", "change the weights of some arms", lambda given: Weights(dict(given.weights)))
    weights.add_argument("weights", nargs="+", type=_weight, metavar="ARM=WEIGHT")
    for name, text, make in (
        ("kill", "let the control arm answer the requests of an arm", lambda given: Kill(given.arm)),
        ("revive", "let an arm answer its requests again", lambda given: Revive(given.arm)),
    ):
        add(name, text, make).add_argument("arm", metavar="ARM")
    shadow = add(
        "shadow",
        "let an arm answer nothing, and score requests that another one has answered; or end that",
        _shadow,
    )
    shadow.add_argument("arm", metavar="ARM")
    shadow.add_argument("state", nargs="?", choices=["off"], help="ARM is a shadow no more")
    shadow.add_argument("--of", metavar="OTHER", help="the arm that answers")
    shadow.add_argument("--share", type=float, metavar="SHARE", help="of its keys, above 0 and at most 1")
    add("reload", "read all bundles again, as SIGHUP does", lambda _: Reload())
    rollback = add(
        "rollback",
        "serve the bundles that arms served before; without an arm, of all that served another one",
        lambda given: Rollback(tuple(given.arms)),
    )
    rollback.add_argument("arms", nargs="*", metavar="ARM")
    calibration = add(
        "calibration", "live calibrations of the arms, or change that of one", lambda _: Calibration()
    )
    changes = calibration.add_subparsers(metavar="CHANGE")
    for name, text, change_of in (
        ("freeze", "let the live calibration of an arm stay as it is", lambda given: Freeze(given.arm)),
        ("thaw", "let it change again", lambda given: Thaw(given.arm)),
        ("reset", "serve an arm without one, and forget its evidence", lambda given: Reset(given.arm)),
    ):
        change = changes.add_parser(name, help=text, description=text, parents=[shared])
        change.add_argument("arm", metavar="ARM")
        change.set_defaults(make=change_of)
    add_canary(
        add(
            "canary",
            "let an arm earn its traffic step by step, held by gates; or see, stop or promote one",
            canary_of,
        )
    )
    return parser


def _add_shared(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--control-socket", metavar="PATH", help=f"the service's setting of that name [{VARIABLE}]"
    )
    parser.add_argument("--json", action="store_true", help="print JSON, for machines")
    parser.add_argument(
        "--timeout-seconds", type=float, metavar="N", help="how long to wait for an answer [30]"
    )


class _Parser(argparse.ArgumentParser):
    """Reports an error in one line; --help shows the usage."""

    def error(self, message: str) -> NoReturn:
        """Exit with status 2."""
        self.exit(2, f"{PROGRAM}: error: {message}\n")


def _weight(text: str) -> tuple[str, float]:
    """`ARM=WEIGHT`. Raises ArgumentTypeError."""
    name, equals, weight = text.partition("=")
    try:
        if not (name and equals):
            raise ValueError
        found = float(weight)
        check_weight(name, found)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"must be ARM=WEIGHT with a number (got {text!r}); for example treatment=10"
        ) from None
    except BadConfiguration as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return name, found


def _shadow(given: argparse.Namespace) -> Command:
    """The command of `shadow ARM --of OTHER --share SHARE`, or `shadow ARM off`. Raises BadConfiguration."""
    if given.state == "off" and given.of is None and given.share is None:
        return EndShadow(given.arm)
    if given.state is not None or given.of is None or given.share is None:
        raise BadConfiguration(
            f"'shadow' must be followed by ARM --of OTHER --share SHARE, or by ARM off (got {given.arm!r}"
            f"{'' if given.state is None else ' off'} and "
            f"{'no' if given.of is None else 'an'} --of, {'no' if given.share is None else 'a'} --share)"
        )
    check_share(given.arm, given.share)
    return Shadow(given.arm, given.of, given.share)


def _carry_out(command: Command, options: argparse.Namespace) -> int:
    """Ask, wait until all workers have done it, and print what is so then. Raises as ControlClient does."""
    with ControlClient(options.control_socket, options.timeout_seconds) as client:
        answer = client.ask(command)
    if answer.error is not None:
        return _complain(answer.error.message, REFUSED)
    if isinstance(command, Calibration | Calibrating):
        return _show_calibrations(answer, options)
    is_of_canary = isinstance(command, Leading) or getattr(options, "what", "") == STATUS
    status, fault = answer.status, ""
    if answer.done is not None:
        status, fault = _wait(command, answer.done, options)
        _warn(answer.done)
    assert status is not None
    if options.json:
        print(msgspec.json.encode(Answer(done=answer.done, status=status)).decode())
    elif is_of_canary:
        print(canary_table_of(status.canary))
    else:
        print(table_of(status))
    return _complain(fault, REFUSED) if fault else 0


def _show_calibrations(answer: Answer, options: argparse.Namespace) -> int:
    """Print the live calibrations after a command on them. Raises as ControlClient does."""
    if answer.done is not None:
        _warn(answer.done)
        with ControlClient(options.control_socket, options.timeout_seconds) as client:
            shown = client.ask(Calibration())
        if shown.error is not None:
            return _complain(shown.error.message, REFUSED)
        answer = Answer(done=answer.done, calibrations=shown.calibrations)
    assert answer.calibrations is not None
    if options.json:
        print(msgspec.json.encode(answer).decode())
    else:
        print(calibration_table_of(answer.calibrations))
    return 0


def _warn(done: Done) -> None:
    for note in done.notes:
        print(f"{PROGRAM}: warning: {note}", file=sys.stderr)


def _wait(command: Command, done: Done, options: argparse.Namespace) -> tuple[ServiceStatus, str]:
    """The state once all workers have done it, or what is not as it should be."""
    until = time.monotonic() + FOLLOW_SECONDS
    while True:
        # Anew each time: the socket forgets clients that are silent.
        with ControlClient(options.control_socket, options.timeout_seconds) as client:
            status = client.ask(Status()).status
        assert status is not None
        if done.reload is not None:
            last = status.last_reload
            if last is not None and last.number >= done.reload:
                is_overtaken = isinstance(command, Reload) and last.number > done.reload
                return status, _fault_of(last, is_overtaken=is_overtaken)
        elif all(worker.revision >= done.revision for worker in status.workers if worker.state == "serving"):
            return status, ""
        elif time.monotonic() > until:
            return (
                status,
                f"not all workers follow after {FOLLOW_SECONDS:g} s; look at the log of the service",
            )
        time.sleep(LOOK_SECONDS)


def _fault_of(last: ReloadStatus, *, is_overtaken: bool) -> str:
    """What is wrong after a reload or a rollback, by the last that has ended; a reload may be overtaken."""
    if is_overtaken and last.command == "rollback":
        return "a rollback has undone the reload, or has followed it; look at the bundles that are served"
    return "" if last.outcome == "ok" else f"the {last.command} was {last.outcome}: {last.reason}"


def _complain(message: str, status: int) -> int:
    print(f"{PROGRAM}: error: {message}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
