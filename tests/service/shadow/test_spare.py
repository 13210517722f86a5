"""Work that nobody waits for gets half of the time that is left over, and hardly any where none is."""

from __future__ import annotations

import errno
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.shadow import spare as spare_module
from service.shadow.spare import LEAST_SHARE, MOST_SHARE, SPARE_PART, WINDOW_SECONDS, SpareTime, busy_clock


class Thread:
    """A thread's times, in seconds."""

    def __init__(self) -> None:
        self.now = self.busy = 100.0
        self.spare = SpareTime(lambda: self.busy, lambda: self.now)
        self.spare.measure()

    def go_on(self, wall: float, busy: float, own: float = 0.0) -> float:
        """So long passes; it is busy for some of it with others' work, and for `own` with the spare one."""
        self.now += wall
        self.busy += busy + own
        self.spare.spend(own)
        return self.spare.measure()


@given(st.lists(st.tuples(st.floats(1.0, 10.0), st.floats(0.0, 1.0), st.floats(0.0, 1.0)), max_size=20))
def test_half_of_what_others_leave_may_be_taken(times: list[tuple[float, float, float]]) -> None:
    thread = Thread()
    for wall, share, own in times:
        expected = min(max(SPARE_PART * (1.0 - share), LEAST_SHARE), MOST_SHARE)
        found = thread.go_on(wall, wall * share, own * (1.0 - share) * wall)
        assert found == pytest.approx(expected, abs=1e-9)


def test_a_thread_that_others_keep_busy_comes_to_the_least_share() -> None:
    """Of a closed loop: whoever waits for answers takes all the time that the spare work leaves."""
    thread, share = Thread(), MOST_SHARE
    for _ in range(10):
        share = thread.go_on(1.0, 1.0 - share, share)
    assert share == LEAST_SHARE
    assert thread.go_on(1.0, 0.5) == MOST_SHARE


def test_less_than_a_window_changes_nothing() -> None:
    thread = Thread()
    assert thread.go_on(WINDOW_SECONDS / 2, 0.0) == LEAST_SHARE
    assert thread.go_on(WINDOW_SECONDS, 0.0) == MOST_SHARE
    assert thread.go_on(WINDOW_SECONDS / 2, WINDOW_SECONDS) == MOST_SHARE


def test_while_no_file_can_be_opened_hardly_any_time_is_given() -> None:
    is_full = False
    thread = Thread()

    def busy() -> float:
        if is_full:
            raise OSError(errno.EMFILE, "Too many open files")
        return thread.busy

    thread.spare = SpareTime(busy, lambda: thread.now)
    thread.spare.measure()
    assert thread.go_on(1.0, 0.0) == MOST_SHARE
    is_full = True
    assert thread.go_on(1.0, 0.0) == LEAST_SHARE
    is_full = False
    assert thread.go_on(1.0, 0.0) == MOST_SHARE


@pytest.mark.parametrize("file", ["/proc/thread-self/schedstat", "/nowhere", "/dev/null"])
def test_a_thread_is_busy_while_it_runs_and_not_while_it_sleeps(
    file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the kernel does not tell how long a thread has waited for a core."""
    monkeypatch.setattr(spare_module, "_SCHEDULER", Path(file))
    found: list[float] = []

    def measure() -> None:
        busy = busy_clock()
        before = busy()
        end = time.thread_time() + 0.02
        while time.thread_time() < end:
            pass
        worked, began = busy(), time.monotonic()
        time.sleep(0.1)
        found.extend((worked - before, busy() - worked, time.monotonic() - began))

    thread = threading.Thread(target=measure)
    thread.start()
    thread.join()
    worked, slept, passed = found
    assert worked >= 0.015
    assert slept <= passed - 0.08  # what is beyond its sleep it may have waited for a core
