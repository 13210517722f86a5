"""Signals of the supervisor and of its workers; it knows neither of them."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn

# The supervisor reads these from a pipe; its workers handle them in their own way.
SUPERVISOR_SIGNALS = (
    (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD) if hasattr(signal, "SIGHUP") else ()
)


class Interrupted(Exception):
    """A signal has ended what was under way; it is the argument."""


def handle_signals_during_startup(end: Callable[[int], NoReturn]) -> None:
    """Call `end` at SIGTERM and SIGINT, and ignore SIGHUP, until the server or the supervisor takes over.

    The kernel gives the first process of a container no default handler for SIGTERM.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: end(0))
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_IGN)


@contextmanager
def signal_pipe() -> Iterator[int]:
    """A descriptor from which the numbers of the supervisor's signals are read, a byte each."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer)  # before the handlers, so that no signal is lost in between
    for number in SUPERVISOR_SIGNALS:
        signal.signal(number, lambda *_: None)
    try:
        yield reader
    finally:
        signal.set_wakeup_fd(-1)
        os.close(reader)
        os.close(writer)


@contextmanager
def blocked_signals() -> Iterator[None]:
    """Hold signals back; those that come meanwhile are handled at the end.

    During a fork, the inherited handlers would swallow a signal that reaches the child. During an import,
    what a handler raises is dropped if one of the import system's callbacks is running.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, SUPERVISOR_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SUPERVISOR_SIGNALS)


@contextmanager
def interrupted_by(*numbers: signal.Signals, after_seconds: float) -> Iterator[None]:
    """Raise Interrupted at these signals, and at SIGALRM after so many seconds. For the main thread."""

    def interrupt(number: int, _: object) -> None:
        raise Interrupted(signal.Signals(number))

    before = {number: signal.signal(number, interrupt) for number in (*numbers, signal.SIGALRM)}
    signal.setitimer(signal.ITIMER_REAL, after_seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        for number, handler in before.items():
            signal.signal(number, handler)


def end_at_once(status: int) -> NoReturn:
    """End the process without running anything down: a thread may be in code that does not come back."""
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)


def reset_signals_in_worker() -> None:
    """Undo the supervisor's handling after a fork; a worker ignores SIGHUP."""
    signal.set_wakeup_fd(-1)
    for number in SUPERVISOR_SIGNALS:
        signal.signal(number, signal.SIG_IGN if number == signal.SIGHUP else signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SUPERVISOR_SIGNALS)
