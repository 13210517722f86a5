"""Clients that ask until they are told to stop, and an account of every answer; for faults in the meantime.

Each is a thread with one blocking connection: a closed loop whose rate does not matter, in which nothing gets
lost uncounted. A request is lost if its connection was accepted and no answer came.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from loadtest.processes.server import Server
from loadtest.traffic.messages import connect, read_answer

# After a connection was refused.
_PAUSE_SECONDS = 0.02

Judge = Callable[[int, bytes], bool]


@dataclass
class Account:
    """What all clients saw. `refused` connections were never accepted, so nothing of theirs is lost."""

    statuses: Counter[int] = field(default_factory=Counter)
    wrong: int = 0
    lost: int = 0
    refused: int = 0

    @property
    def answered(self) -> int:
        """Answers with status 200."""
        return self.statuses[200]

    @property
    def other_answers(self) -> int:
        """Answers with another status."""
        return self.statuses.total() - self.answered


class Askers:
    """The threads; `account` is shared and whole once they have stopped."""

    def __init__(
        self, server: Server, messages: Sequence[bytes], count: int, is_kept: bool, judge: Judge | None
    ) -> None:
        self.account = Account()
        self._server, self._judge, self._is_kept = server, judge, is_kept
        self._messages = messages
        self._is_over = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._ask, args=(number, count)) for number in range(count)]

    def start(self, core: int | None) -> None:
        """Let them run, on `core` if given."""
        self._core = core
        for thread in self._threads:
            thread.start()

    def stop(self) -> Account:
        """Let each finish the request under way."""
        self._is_over.set()
        for thread in self._threads:
            thread.join()
        return self.account

    def _ask(self, number: int, step: int) -> None:
        if self._core is not None:
            os.sched_setaffinity(0, {self._core})
        while not self._is_over.is_set():
            try:
                connection = connect(self._server)
            except OSError:
                with self._lock:
                    self.account.refused += 1
                self._is_over.wait(_PAUSE_SECONDS)
                continue
            with connection:
                is_last = False
                while not (is_last or self._is_over.is_set()):
                    index = number % len(self._messages)
                    try:
                        connection.sendall(self._messages[index])
                        status, body, is_last = read_answer(connection)
                    except OSError:
                        with self._lock:
                            self.account.lost += 1
                        break
                    self._record(index, status, body)
                    number += step
                    is_last = is_last or not self._is_kept

    def _record(self, index: int, status: int, body: bytes) -> None:
        is_wrong = status == 200 and self._judge is not None and not self._judge(index, body)
        with self._lock:
            self.account.statuses[status] += 1
            self.account.wrong += is_wrong


@contextmanager
def asking(
    server: Server,
    messages: Sequence[bytes],
    *,
    count: int = 8,
    is_kept: bool = True,
    judge: Judge | None = None,
    core: int | None = None,
) -> Iterator[Account]:
    """`count` clients that ask while the block runs; the account is whole after it.

    They send the messages in turn, and keep their connections or open one for each. `judge` says of the index
    of a message and the body of an answer with status 200 whether it is right.
    """
    askers = Askers(server, messages, count, is_kept, judge)
    askers.start(core)
    try:
        yield askers.account
    finally:
        askers.stop()
