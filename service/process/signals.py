"""Signals of the supervisor and of its workers; it knows neither of them."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# The supervisor reads these from a pipe; its workers handle them in their own way.
SUPERVISOR_SIGNALS = (
    (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD) if hasattr(signal, "SIGHUP") else ()
)


def handle_signals_during_startup() -> None:
    """Exit at SIGTERM and SIGINT, and ignore SIGHUP, until the server or the supervisor takes over.

    The kernel gives the first process of a container no default handler for SIGTERM.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
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


def reset_signals_in_worker() -> None:
    """Undo the supervisor's handling after a fork; a worker ignores SIGHUP."""
    signal.set_wakeup_fd(-1)
    for number in SUPERVISOR_SIGNALS:
        signal.signal(number, signal.SIG_IGN if number == signal.SIGHUP else signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SUPERVISOR_SIGNALS)
