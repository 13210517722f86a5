"""How long a connection waits: for the rest of a request, for the next one, and for its client to read.

It knows neither HTTP nor what a connection holds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class ConnectionTimers:
    """Three timers of one connection, each of `seconds`.

    `close` closes the connection, `abort` cuts it off, and `is_idle` says whether it waits for a request.
    """

    __slots__ = (
        "_abort",
        "_close",
        "_idle",
        "_is_idle",
        "_loop",
        "_reading",
        "_seconds",
        "_writing",
        "idle_since",
        "reading_since",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        seconds: float,
        close: Callable[[], object],
        abort: Callable[[], object],
        is_idle: Callable[[], bool],
    ) -> None:
        self._loop, self._seconds = loop, seconds
        self._close, self._abort, self._is_idle = close, abort, is_idle
        self._reading: asyncio.TimerHandle | None = None
        self._writing: asyncio.TimerHandle | None = None
        self._idle: asyncio.TimerHandle | None = None
        self.idle_since = self.reading_since = loop.time()

    @property
    def has_answered(self) -> bool:
        """Whether the time since an answer is measured."""
        return self._idle is not None

    def start_reading(self) -> None:
        """A request has begun, and must be complete in time; or the first one must come."""
        if self._reading is None:
            self.reading_since = self._loop.time()
            self._reading = self._loop.call_later(self._seconds, self._close)

    def stop_reading(self) -> None:
        """It is complete."""
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None

    def start_writing(self) -> None:
        """The client must read on in time."""
        self._writing = self._loop.call_later(self._seconds, self._abort)

    def stop_writing(self) -> None:
        """It reads."""
        if self._writing is not None:
            self._writing.cancel()
            self._writing = None

    def start_idle(self) -> None:
        """An answer is written: the next request must come in time.

        uvicorn starts a timer after every answer and cancels it at every request, which costs more than one
        lasting timer that compares times when it fires.
        """
        self.idle_since = self._loop.time()
        if self._idle is None:
            self._idle = self._loop.call_later(self._seconds, self._close_if_idle)

    def stop(self) -> None:
        """Stop all of them for good, and let go of the connection: else only the collector would free it."""
        self.stop_reading()
        self.stop_writing()
        if self._idle is not None:
            self._idle.cancel()
        self._close = self._abort = self._is_idle = lambda: False

    def _close_if_idle(self) -> None:
        self._idle = None
        if not self._is_idle():
            return  # the next answer starts this timer again
        left = self.idle_since + self._seconds - self._loop.time()
        if left > 0:
            self._idle = self._loop.call_later(left, self._close_if_idle)
        else:
            self._close()
