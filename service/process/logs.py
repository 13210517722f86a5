"""How the service logs: one line a record on stderr, and at most one line a second of each kind of fault.

It knows no fault: a kind is the line of code that logs it, with the class of its exception.
"""

from __future__ import annotations

import asyncio
import copy
import logging
import re
import time
from dataclasses import dataclass
from typing import Any

from service.http.uvicorn_internals import STARTUP_FAILED

PERIOD_SECONDS = 1.0
# What begins a new line, or what a terminal obeys: a message may hold the text of a client or a store.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def log_config(level: str) -> dict[str, Any]:
    """One line a record on stderr; of libraries only warnings: uvicorn logs each start and end."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "filters": {"echo": {"()": DropEcho}},
        "formatters": {"line": {"()": LineFormatter, "fmt": "%(asctime)s %(levelname)s %(message)s"}},
        "handlers": {"stderr": {"()": PacedHandler, "formatter": "line", "filters": ["echo"]}},
        "loggers": {
            "bidlight": {"handlers": ["stderr"], "level": level.upper(), "propagate": False},
            "uvicorn": {"level": "DEBUG" if level == "debug" else "WARNING"},
        },
        "root": {"handlers": ["stderr"], "level": "WARNING"},
    }


def keep_telling(loop: asyncio.AbstractEventLoop) -> None:
    """Tell every second what was left out, for as long as the loop runs."""
    tell_left_out()
    loop.call_later(PERIOD_SECONDS, keep_telling, loop)


def tell_left_out() -> None:
    """Log how many lines were left out of each kind whose second is over."""
    for handler in logging.getLogger("bidlight").handlers:
        if isinstance(handler, PacedHandler):
            handler.tell_left_out()


class DropEcho(logging.Filter):
    """Drops uvicorn's second line about a failed start: the first gives the reason."""

    def filter(self, record: logging.LogRecord) -> bool:
        """False for that line."""
        return not record.getMessage().startswith(STARTUP_FAILED)


class LineFormatter(logging.Formatter):
    """The message as one line, whatever it holds; the traceback of an exception follows it."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        """The line, with control characters escaped: nobody can write a line that the service did not."""
        record.message = _CONTROL.sub(lambda found: ascii(found[0])[1:-1], record.message.strip())
        return super().formatMessage(record)


@dataclass(slots=True)
class _Kind:
    """A kind of which a line was written at `since`; `held` are left out from then on, `last` the last."""

    since: float
    held: int = 0
    last: logging.LogRecord | None = None


class PacedHandler(logging.StreamHandler[Any]):
    """Writes the first record of a kind at once, and in each second after it one line for all that follow.

    That line is the message of the last of them, with how many others were left out. So whatever a client, a
    store or a disk can repeat fills no disk, and nothing that happens goes unseen. A record whose attribute
    `is_paced` is false is written at once: what only operators can cause.
    """

    def __init__(self) -> None:
        super().__init__()
        self._kinds: dict[tuple[str, int, object], _Kind] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record, or hold it."""
        if not getattr(record, "is_paced", True):
            super().emit(record)
            return
        now = time.monotonic()
        self._tell(now)
        key = record.pathname, record.lineno, record.exc_info and record.exc_info[0]
        kind = self._kinds.get(key)
        if kind is None:
            self._kinds[key] = _Kind(now)
            super().emit(record)
        else:
            kind.held += 1
            kind.last = _without_objects(record)

    def tell_left_out(self) -> None:
        """Write the lines that are due."""
        assert self.lock is not None
        with self.lock:
            self._tell(time.monotonic())

    def close(self) -> None:
        """Write what is left: nothing more will come."""
        self._tell(time.monotonic() + PERIOD_SECONDS)
        super().close()

    def _tell(self, now: float) -> None:
        for key, kind in [*self._kinds.items()]:
            if now - kind.since < PERIOD_SECONDS:
                continue
            if kind.last is None:
                del self._kinds[key]
                continue
            if kind.held > 1:
                kind.last.msg += f" ({kind.held - 1:,} more like it were left out)"
            super().emit(kind.last)
            kind.since, kind.held, kind.last = now, 0, None


def _without_objects(record: logging.LogRecord) -> logging.LogRecord:
    """A copy that keeps nothing alive: arguments and tracebacks refer to requests."""
    kept = copy.copy(record)
    kept.msg, kept.args, kept.exc_info, kept.exc_text = record.getMessage(), None, None, None
    return kept
