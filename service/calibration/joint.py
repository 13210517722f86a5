"""When a service visits the ledger of all machines, and how: in place, or in a thread beside an event loop.

It knows neither what the ledger holds nor what is done about it.
"""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

from service.calibration.errand import Errand

if TYPE_CHECKING:
    from service.calibration.ledger_store import LedgerStore, Visited

# So many visits a period: after half of it the next step is made, which others see a quarter later at most.
VISITS_A_PERIOD = 4
# A store that hangs holds up a process that waits for it for a tenth of its time at most.
PAUSE_FACTOR = 10.0


class Joint:
    """Visits a `store` several times a period, `in_thread` or not."""

    def __init__(self, store: LedgerStore, period_ms: int, *, in_thread: bool) -> None:
        self._store = store
        self._least_ms = period_ms / VISITS_A_PERIOD
        self._began_ms, self._pause_ms = 0, 0.0
        self._visit: Future[Visited] | None = None
        # Its thread is started by the first visit, and ends with the process.
        self._threads = ThreadPoolExecutor(1, "bidlight-ledger") if in_thread else None

    def is_due(self, now_ms: int) -> bool:
        """Whether it is time for another visit, or the clock was set back."""
        return self._visit is None and not 0 <= now_ms - self._began_ms < self._pause_ms

    def visit(self, errand: Errand) -> None:
        """Begin a visit, whose end `ended` returns."""
        self._began_ms = errand.now_ms
        if self._threads is not None:
            self._visit = self._threads.submit(self._run, errand)
            return
        self._visit = Future()
        try:
            self._visit.set_result(self._run(errand))
        except Exception as error:
            self._visit.set_exception(error)

    def ended(self) -> Future[Visited] | None:
        """The visit, if one has ended since this was asked."""
        visit = self._visit
        if visit is None or not visit.done():
            return None
        self._visit = None
        return visit

    def _run(self, errand: Errand) -> Visited:
        started = time.monotonic()
        try:
            return self._store.visit(errand)
        finally:
            took = time.monotonic() - started
            self._pause_ms = max(self._least_ms, 1e3 * PAUSE_FACTOR * took)


def joint_of(url: str, period_ms: int, *, in_thread: bool) -> Joint | None:
    """Visits to the Redis at `url`, None without one. Raises BadConfiguration."""
    if not url:
        return None
    from service.calibration.ledger_store import LedgerStore  # its library is loaded for it alone

    return Joint(LedgerStore(url), period_ms, in_thread=in_thread)
