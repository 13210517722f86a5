"""Progress lines every few seconds: rows so far and rows a second."""

import time
from collections.abc import Callable
from typing import Final

_SECONDS_BETWEEN: Final = 2.0


class Progress:
    """Counts rows and reports them as `<verb> <rows> rows`."""

    def __init__(self, verb: str, report: Callable[[str], None]) -> None:
        self._verb = verb
        self._report = report
        self._rows = 0
        self._start = self._last = time.perf_counter()

    def add(self, rows: int) -> None:
        self._rows += rows
        now = time.perf_counter()
        if now - self._last >= _SECONDS_BETWEEN:
            self._last = now
            self._say("...")

    def finish(self, remark: str = "") -> None:
        self._say(remark)

    def _say(self, remark: str) -> None:
        elapsed = max(time.perf_counter() - self._start, 1e-9)
        self._report(f"{self._verb} {self._rows:,} rows ({self._rows / elapsed:,.0f} rows/s){remark}")
