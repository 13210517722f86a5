"""The garbage collector of a test process: it leaves alone what is there before the first test.

These are all modules and all tests. A service that runs in this process collects garbage at its start and at
each reload, and would traverse them every time, which takes far longer than the rest of it.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

FREEZE, UNFREEZE = gc.freeze, gc.unfreeze


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Collect tests without collecting garbage, and exempt what there is then from later collections."""
    gc.disable()
    found = yield
    gc.freeze()
    gc.enable()
    return found


@pytest.fixture(scope="session", autouse=True)
def exempt_is_what_there_was() -> Iterator[None]:
    """Services neither exempt more, nor take back that exemption: what tests leave stays to be collected."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gc, "freeze", lambda: None)
        patch.setattr(gc, "unfreeze", lambda: None)
        yield


@pytest.fixture
def nothing_is_exempt(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """For a test of what a service exempts."""
    monkeypatch.setattr(gc, "freeze", FREEZE)
    monkeypatch.setattr(gc, "unfreeze", UNFREEZE)
    gc.unfreeze()
    yield
    gc.freeze()
