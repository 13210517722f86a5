"""Runs contenders one after another here, or several at a time in processes; a failure stops no other.

A contender ends with a result or with a reason; what it does between is not known here.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import traceback
from collections.abc import Iterator, Sequence
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, ForkServerProcess, SpawnContext, SpawnProcess

from export.compare.contender import TRACEBACK, Contender
from export.compare.records import Failure, Result
from export.data.progress import Shown, shown, shown_as
from export.errors import ExportError
from export.stages.work import Say
from service.bundle.errors import BundleError

Outcome = Result | Failure
Process = ForkServerProcess | SpawnProcess

IMPORTED_ONCE = ["export.graph.onnx", "onnxscript"]
"""What each contender's process begins with. No thread is lost in it by a fork: NumPy's start again by
themselves, torch's start with its first operation, and Polars, which has its own, is not among it."""


def outcomes(contenders: Sequence[Contender], *, jobs: int, say: Say) -> Iterator[Outcome]:
    """The outcome of each contender, as they end. With one job they run in this process."""
    if jobs == 1:
        for contender in contenders:
            yield attempt(contender, say)
    else:
        yield from _in_processes(contenders, jobs, say)


def attempt(contender: Contender, say: Say) -> Outcome:
    """The result of one contender, or why there is none; a defect's traceback goes to its work folder."""
    stages = ["train"]

    def named(line: str) -> None:
        say(f"{contender.model}: {line}")

    try:
        return contender.compete(stages.append, named)
    except (ExportError, BundleError) as error:
        reason = str(error)
    except Exception as error:  # of any kind: the other models go on
        reason = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        with contextlib.suppress(OSError):
            (contender.work.folder / TRACEBACK).write_text(traceback.format_exc(), encoding="utf-8")
    failure = Failure(contender.model, contender.seed, stages[-1], " ".join(reason.split()))
    named(f"failed in {failure.stage}: {failure.reason}")
    return failure


def _in_processes(contenders: Sequence[Contender], jobs: int, say: Say) -> Iterator[Outcome]:
    """As many processes as jobs, a new one for each contender, which frees its memory when it ends."""
    context = _processes()
    how: Shown = "nothing" if shown() == "nothing" else "lines"  # a bar has one process
    waiting = list(reversed(contenders))
    running: dict[Connection, tuple[Contender, Process]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                contender = waiting.pop()
                ours, theirs = context.Pipe()
                process = context.Process(target=_run_contender, args=(contender, theirs, how), daemon=True)
                process.start()
                theirs.close()
                running[ours] = contender, process
            ready = wait(list(running))
            for connection in [one for one in running if one in ready]:
                outcome = _receive(connection, *running[connection], say)
                if outcome is not None:
                    _, process = running.pop(connection)
                    process.join()
                    yield outcome
    finally:
        for _, process in running.values():
            process.terminate()
            process.join()


def _processes() -> ForkServerContext | SpawnContext:
    """What starts processes: forked from one that only imports, since torch's threads do not survive a fork.

    Where that one cannot be asked, as where the path of its socket is too long, each imports by itself.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTED_ONCE)
    # It and what is forked from it are deaf to Ctrl-C from the start: it would end their imports in a trace.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        forkserver.ensure_running()
    except OSError:
        return multiprocessing.get_context("spawn")
    finally:
        signal.signal(signal.SIGINT, before)
    return context


def _receive(connection: Connection, contender: Contender, process: Process, say: Say) -> Outcome | None:
    """Passes a line on, or returns the outcome; that of a process that died is a failure."""
    try:
        message = connection.recv()
    except (EOFError, ConnectionError):
        process.join()
        code = process.exitcode or 0
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        hint = "; it may have taken more memory than there is" if code == -signal.SIGKILL else ""
        failure = Failure(contender.model, contender.seed, "process", f"it ended with {how}{hint}")
        say(f"{contender.model}: failed: {failure.reason}")
        return failure
    if isinstance(message, str):
        say(message)
        return None
    outcome: Outcome = message
    return outcome


def _run_contender(contender: Contender, connection: Connection, how: Shown) -> None:
    """The work of a process: one contender, whose lines and outcome go through the connection."""
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C and ends this process
    parent = multiprocessing.parent_process()
    if parent is not None and not parent.is_alive():
        return  # it was ended while this process was asked for
    if contender.config.threads is not None:
        torch.set_num_threads(contender.config.threads)
    try:
        with shown_as(how):
            connection.send(attempt(contender, connection.send))
    except BrokenPipeError:
        return  # the parent is gone
