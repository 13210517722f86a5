"""Progress lines every few seconds: rows so far, rows a second, and of how many where that is known."""

import time
from collections.abc import Callable
from typing import Final

_SECONDS_BETWEEN: Final = 2.0


class Progress:
    """Counts rows and reports them as `<verb> <rows> rows`.

    `about` is how many rows are expected, if only roughly: lines then say the share that is done and the time
    that is left.
    """

    def __init__(self, verb: str, report: Callable[[str], None], *, about: int | None = None) -> None:
        self._verb = verb
        self._report = report
        self._about = about
        self._rows = 0
        self._start = self._last = time.perf_counter()

    def add(self, rows: int) -> None:
        self._rows += rows
        now = time.perf_counter()
        if now - self._last >= _SECONDS_BETWEEN:
            self._last = now
            self._say(f"...{self._left(now - self._start)}")

    def finish(self, remark: str = "") -> None:
        self._say(remark)

    def _say(self, remark: str) -> None:
        elapsed = max(time.perf_counter() - self._start, 1e-9)
        self._report(f"{self._verb} {self._rows:,} rows ({self._rows / elapsed:,.0f} rows/s){remark}")

    def _left(self, elapsed: float) -> str:
        """What is left by the rate so far; nothing past the rows that were expected."""
        if self._about is None or not 0 < self._rows < self._about:
            return ""
        seconds = elapsed * (self._about - self._rows) / self._rows
        return f" {self._rows / self._about:.0%} done, about {_duration(seconds)} left"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
