"""The reloads and rollbacks of a service, one at a time: who asked, and how the last one ended.

It logs and counts them. It knows neither how arms are loaded nor who serves them.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Literal

import msgspec

from service.errors import BadConfiguration
from service.metrics.families import Metrics

logger = logging.getLogger("bidlight")


Kind = Literal["reload", "rollback"]
Outcome = Literal["ok", "refused", "undone"]
"""Of those that are undone, some workers served other bundles; then a rollback was asked for."""
RELOAD: Final = "reload"
ROLLBACK: Final = "rollback"
# Of lines that operators alone can cause, none is left out of the log.
TOLD = {"is_paced": False}
# What the log says of them.
_DONE = {RELOAD: "reloaded", ROLLBACK: "rolled back"}


class Wanted(msgspec.Struct, frozen=True):
    """What somebody asked for: a user (a uid) by a command, or whoever sent SIGHUP.

    A reload of all arms from their folders, or a rollback of `arms` to the bundles that they served before
    (none: of all that can).
    """

    number: int
    command: Kind = RELOAD
    arms: tuple[str, ...] = ()
    user: int | None = None


class Ended(msgspec.Struct, frozen=True):
    """What has ended at `at` (Unix seconds); `before` and `after` are the bundles' ids by arm.

    `reason` says why it was refused, or undone, which changes nothing.
    """

    wanted: Wanted
    at: float
    outcome: Outcome
    before: dict[str, str]
    after: dict[str, str]
    reason: str = ""


class Reloads:
    """What waits, what is under way, and what has ended last, of which `on_end` is told."""

    def __init__(self, metrics: Metrics) -> None:
        self.requested = 0
        """The number of the last one that was asked for."""
        self.last: Ended | None = None
        self.on_end: Callable[[Ended], object] = lambda _: None
        self.under_way = Wanted(0)
        """What has begun last; it may have ended."""
        self._metrics = metrics
        self._waiting: deque[Wanted] = deque()

    def request(self, command: Kind = RELOAD, arms: Sequence[str] = (), user: int | None = None) -> int:
        """Ask for a reload or a rollback; its number.

        A reload that waits reads folders only when it begins: one is enough.
        """
        if command == ROLLBACK or not self._waiting or self._waiting[-1].command != command:
            self.requested += 1
            self._waiting.append(Wanted(self.requested, command, tuple(arms), user))
        return self._waiting[-1].number

    @property
    def is_requested(self) -> bool:
        """Whether one waits."""
        return bool(self._waiting)

    @property
    def next_command(self) -> Kind | None:
        """What waits next."""
        return self._waiting[0].command if self._waiting else None

    def begin(self) -> Wanted:
        """The next one, which is under way from now on until it has succeeded, or is refused or undone."""
        self.under_way = self._waiting.popleft()
        return self.under_way

    def succeed(self, before: Mapping[str, str], after: Mapping[str, str]) -> None:
        """The arms serve other bundles from now on."""
        self._metrics.reloads.labels("ok").inc()
        served = ", ".join(f"{name} ({bundle})" for name, bundle in after.items())
        logger.info("%s %s", _DONE[self.under_way.command], served, extra=TOLD)
        self._end("ok", before, after)

    def refuse(self, reason: Exception | str, serving: Mapping[str, str]) -> None:
        """It changes nothing; an unexpected error is logged with its traceback."""
        self._metrics.reloads.labels("refused").inc()
        unexpected = None if isinstance(reason, str | BadConfiguration) else reason
        text = str(reason) or repr(reason)
        done = _DONE[self.under_way.command]
        said = "the arms are not %s and go on as they were: %s"
        logger.error(said, done, text, exc_info=unexpected, extra=TOLD)
        self._end("refused", serving, serving, text)

    def undo(self, reason: str, serving: Mapping[str, str]) -> None:
        """Somebody wants it no more before all serve it: it changes nothing, and nothing is wrong with it."""
        self._metrics.reloads.labels("undone").inc()
        logger.info("the %s is undone: %s", self.under_way.command, reason, extra=TOLD)
        self._end("undone", serving, serving, reason)

    def _end(
        self,
        outcome: Outcome,
        before: Mapping[str, str],
        after: Mapping[str, str],
        reason: str = "",
    ) -> None:
        self.last = Ended(self.under_way, time.time(), outcome, dict(before), dict(after), reason)
        self._metrics.reload_time.labels(outcome).set(self.last.at)
        self.on_end(self.last)
