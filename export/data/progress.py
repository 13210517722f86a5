"""How far long work is: a bar on a terminal, else lines every few seconds, and nothing of it where quiet.

tqdm draws the bars, on the error output. This module knows no work; the command line chooses what is shown.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Any, Self

Shown = Literal["bars", "lines", "nothing"]

_SECONDS_BETWEEN: Final = 2.0
_SECONDS_BEFORE_A_BAR: Final = 1.0
_SECONDS_BETWEEN_NOTES: Final = 1.0
_UNEVEN: Final = "{l_bar}{bar}| {n_fmt}/{total_fmt}{unit} [{elapsed}]"
_EVEN: Final = _UNEVEN.replace("]", ", {remaining} left, {rate_noinv_fmt}{postfix}]")
_shown: ContextVar[Shown] = ContextVar("shown", default="lines")
_bars: Final[list[Bar]] = []
"""Those that are drawn, the outermost first."""


@contextmanager
def shown_as(how: Shown) -> Iterator[None]:
    """What is shown of progress within the context; lines are the default."""
    token = _shown.set(how)
    try:
        yield
    finally:
        _shown.reset(token)


def shown() -> Shown:
    """What is shown of progress."""
    return _shown.get()


def fitting(*, quiet: bool) -> Shown:
    """What suits this process: bars where a person looks at its error output."""
    if quiet:
        return "nothing"
    return "bars" if sys.stderr.isatty() else "lines"


def say(line: str) -> None:
    """Prints a line at once, above the bars."""
    if not _bars:
        print(line, flush=True)
        return
    from tqdm import tqdm

    with tqdm.external_write_mode(sys.stdout):
        print(line, flush=True)


class Bar:
    """Work whose end is known: its share that is done, its rate, the time that is left; on a terminal alone.

    `total` is how much there is, if only roughly; None: nobody knows. A `whole` is work of several parts
    that show bars of their own below it, so it is seen from the start; other work only if it takes a while.
    What is not `even` has parts of any length, of which no rate and no time that is left follows.
    """

    def __init__(
        self,
        verb: str,
        total: float | None,
        *,
        unit: str = "rows",
        whole: bool = False,
        even: bool = True,
    ) -> None:
        self._bar: Any = None
        if shown() != "bars":
            return
        from tqdm import tqdm

        self._last_note = time.perf_counter()
        self._bar = tqdm(
            total=total,
            desc=verb,
            unit=f" {unit}",
            unit_scale=unit == "rows",
            file=sys.stderr,
            leave=False,
            dynamic_ncols=True,
            delay=0.0 if whole else _SECONDS_BEFORE_A_BAR,
            bar_format=_EVEN if even else _UNEVEN,
        )
        _bars.append(self)

    def add(self, amount: float, note: Callable[[], str] | None = None) -> None:
        """So much more is done; `note` tells how it goes, and is asked now and then."""
        if self._bar is None:
            return
        now = time.perf_counter()
        if now - self._last_note >= _SECONDS_BETWEEN_NOTES:
            self._last_note = now
            if note is not None:
                self._bar.set_postfix_str(note(), refresh=False)
            for outer in _bars[: _bars.index(self)]:
                outer._bar.refresh()  # its clock goes on
        self._bar.update(amount)

    def close(self) -> None:
        """Takes the bar away; a second time does nothing."""
        if self in _bars:
            _bars.remove(self)
            self._bar.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Progress:
    """Counts rows and reports them as `<verb> <rows> rows` at the end; before, a bar or lines show them.

    `about` is how many rows are expected, if only roughly: the share that is done and the time that is left
    are shown then. As a context it takes its bar away, whatever happens.
    """

    def __init__(self, verb: str, report: Callable[[str], None], *, about: int | None = None) -> None:
        self._verb = verb
        self._report = report
        self._about = about
        self._rows = 0
        self._start = self._last = time.perf_counter()
        # Rows may be added by a thread of polars, which knows no context.
        self._shown = shown()
        self._bar = Bar(verb, about)

    def add(self, rows: int) -> None:
        self._rows += rows
        self._bar.add(rows)
        now = time.perf_counter()
        if self._shown == "lines" and now - self._last >= _SECONDS_BETWEEN:
            self._last = now
            self._say(f"...{self._left(now - self._start)}")

    def finish(self, remark: str = "") -> None:
        self._bar.close()
        self._say(remark)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()

    def _say(self, remark: str) -> None:
        elapsed = max(time.perf_counter() - self._start, 1e-9)
        self._report(f"{self._verb} {self._rows:,} rows ({self._rows / elapsed:,.0f} rows/s){remark}")

    def _left(self, elapsed: float) -> str:
        """What is left by the rate so far; nothing past the rows that were expected."""
        if self._about is None or not 0 < self._rows < self._about:
            return ""
        seconds = elapsed * (self._about - self._rows) / self._rows
        return f" {self._rows / self._about:.0%} done, about {duration(seconds)} left"


def duration(seconds: float) -> str:
    """`3 min 20 s`."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
