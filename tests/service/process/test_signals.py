"""A signal, or the time, ends what the main thread does; then the handlers from before are back."""

from __future__ import annotations

import signal

import pytest

from service.process.signals import Interrupted, interrupted_by


def work_for_ever(seconds: float, number: signal.Signals | None) -> None:
    """Until the time has come, or a signal that it sends itself."""
    with interrupted_by(signal.SIGTERM, signal.SIGINT, after_seconds=seconds):
        if number is not None:
            signal.raise_signal(number)
        while True:
            sum(range(1000))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGALRM])
def test_a_signal_ends_what_is_under_way(number: signal.Signals) -> None:
    before = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM)]
    is_late = number is signal.SIGALRM
    with pytest.raises(Interrupted) as interrupted:
        work_for_ever(0.05 if is_late else 60.0, None if is_late else number)
    assert interrupted.value.args == (number,)
    assert [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM)] == before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
