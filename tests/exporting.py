"""Exports as tests run them: graphs timed in short, and `python -m export` in a process that has torch."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path

import pytest

from export.__main__ import main
from export.graph import runtime

SHORT_BURST_SECONDS = 0.0004


@pytest.fixture(scope="session", autouse=True)
def short_bursts() -> Iterator[None]:
    """Every export times all its graphs, and how long they take is not what tests look at."""
    with in_short_bursts():
        yield


@contextlib.contextmanager
def in_short_bursts() -> Iterator[None]:
    """Within, graphs are timed by bursts of a tenth of their usual length."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runtime, "BURST_SECONDS", SHORT_BURST_SECONDS)
        yield


def export(*arguments: str | Path, folder: Path | None = None) -> str:
    """What the command prints, run in `folder` if there is one.

    Raises AssertionError with what it complains of.
    """
    out, errors = io.StringIO(), io.StringIO()
    with (
        contextlib.chdir(folder or Path.cwd()),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(errors),
        runtime.one_torch_thread(),
        in_short_bursts(),
    ):
        try:
            status = main([*map(str, arguments)])
        except SystemExit as ended:
            status = int(ended.code or 0)
    assert status == 0, f"export {' '.join(map(str, arguments))}: {errors.getvalue()}"
    return out.getvalue()
