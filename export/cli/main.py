"""Parses the command line, runs the command, and prints an error that a person can correct as one line."""

from __future__ import annotations

import errno
import os
import signal
import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from export.cli.commands import RUNS
from export.cli.options import build_parser
from export.data.progress import fitting, shown_as
from export.errors import ExportError
from service.bundle.errors import BundleError

# Threads that spin while they wait for each other slow training down several times on cores that another
# process uses too (docs/decisions/training-defaults.md). It must be set before torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

FULL = (errno.ENOSPC, errno.EDQUOT)
AGAIN_S = 0.05
INTERRUPTED, TERMINATED = 128 + signal.SIGINT, 128 + signal.SIGTERM


class Terminated(KeyboardInterrupt):
    """SIGTERM: the command ends as after Ctrl-C, and leaves no half of a file."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; 0: it worked, 1: it could not, 130: Ctrl-C, 143: SIGTERM. A wrong option exits 2."""
    options = build_parser().parse_args(arguments)
    try:
        with heard(), shown_as(fitting(quiet=options.quiet)):
            _run_command(options)
    except (ExportError, BundleError) as error:
        return _fail(str(error))
    except OSError as error:
        where = f"'{error.filename}': " if error.filename else ""
        room = "; make room, then give the command again" if error.errno in FULL else ""
        return _fail(f"{where}{error.strerror or error}{room}")
    except KeyboardInterrupt as error:
        kept = "; the stages that had ended are kept in the work folder" if "work" in options else ""
        if isinstance(error, Terminated):
            return _fail(f"terminated{kept}", TERMINATED)
        return _fail(f"interrupted{kept}", INTERRUPTED)
    return 0


def _run_command(options: Namespace) -> None:
    """The command; under torchrun on its first process, while the others train along."""
    if os.environ.get("WORLD_SIZE", "1") == "1":
        earlier = signal.signal(signal.SIGTERM, _terminate)  # torchrun ends its processes by itself
        try:
            RUNS[options.command](options)
        finally:
            signal.signal(signal.SIGTERM, earlier)
        return
    from export.train.distributed import follow, process_group

    with process_group() as ranks:
        if ranks.is_leader:
            RUNS[options.command](options)
        else:
            with shown_as("nothing"):  # the first process tells how far all are
                follow(ranks)


@contextmanager
def heard() -> Iterator[None]:
    """Lets Ctrl-C and SIGTERM end the block also where they come while Python removes an object.

    What is raised there, as in the callback of a weak reference, is printed and forgotten; so it is raised
    again a moment later.
    """

    def again(forgotten: sys.UnraisableHookArgs) -> None:
        if not issubclass(forgotten.exc_type, KeyboardInterrupt):
            before(forgotten)
            return
        kinds.append(forgotten.exc_type)
        signal.setitimer(signal.ITIMER_REAL, AGAIN_S)

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise kinds[-1]

    kinds: list[type[BaseException]] = []
    before, earlier = sys.unraisablehook, signal.signal(signal.SIGALRM, interrupt)
    sys.unraisablehook = again
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, earlier)
        sys.unraisablehook = before


def _terminate(number: int, frame: FrameType | None) -> None:
    """Ends the command once; a second SIGTERM ends the process at once."""
    signal.signal(number, signal.SIG_DFL)
    raise Terminated


def _fail(message: str, code: int = 1) -> int:
    print(f"export: {' '.join(message.split())}", file=sys.stderr)
    return code


def exit_with(status: int) -> None:
    """Ends the process; one of several ends at once.

    torch's threads (2.13) now and then abort the interpreter's orderly end when all work is done, and
    torchrun would take that for a failure of the training.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)
