"""What the tests of the benchmark of other libraries share."""

from __future__ import annotations

import sys

import pytest

from export.data.encoded import EncodedLog
from tests.exporting import short_bursts  # noqa: F401
from tests.peer_log import small_log


@pytest.fixture(scope="module")
def log() -> EncodedLog:
    return small_log()


@pytest.fixture
def same_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command makes installed peers importable, in this test alone."""
    monkeypatch.setattr(sys, "path", list(sys.path))
