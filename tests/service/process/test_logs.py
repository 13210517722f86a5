"""Of each kind of line at most one a second is written, with how many were left out, and each is one line."""

from __future__ import annotations

import asyncio
import gc
import logging
import re
import subprocess
import sys
import textwrap
import threading
import time
import weakref
from collections.abc import Iterator
from io import StringIO

import pytest

from service.process import logs
from service.process.logs import LineFormatter, PacedHandler

PERIOD = 0.2


@pytest.fixture
def handler(monkeypatch: pytest.MonkeyPatch) -> Iterator[PacedHandler]:
    """A handler that writes to a text, with a shorter period."""
    monkeypatch.setattr(logs, "PERIOD_SECONDS", PERIOD)
    handler = PacedHandler()
    handler.setStream(StringIO())
    handler.setFormatter(LineFormatter("%(levelname)s %(message)s"))
    yield handler
    handler.close()


@pytest.fixture
def logger(handler: PacedHandler) -> logging.Logger:
    """One that nobody else listens to."""
    logger = logging.Logger("alone")
    logger.addHandler(handler)
    return logger


def lines_of(handler: PacedHandler) -> list[str]:
    written: StringIO = handler.stream
    return written.getvalue().splitlines()


def wait() -> None:
    """Until the period is over."""
    threading.Event().wait(1.5 * PERIOD)


def test_what_only_operators_cause_is_told_line_by_line(
    handler: PacedHandler, logger: logging.Logger
) -> None:
    for number in range(3):
        logger.info("change %d", number, extra={"is_paced": False})
    assert lines_of(handler) == ["INFO change 0", "INFO change 1", "INFO change 2"]


def test_the_first_line_comes_at_once_and_the_others_as_one(
    handler: PacedHandler, logger: logging.Logger
) -> None:
    for number in range(1000):
        logger.error("fault %d", number)
    assert lines_of(handler) == ["ERROR fault 0"]
    wait()
    handler.tell_left_out()
    assert lines_of(handler)[1:] == ["ERROR fault 999 (998 more like it were left out)"]
    handler.tell_left_out()
    wait()
    handler.tell_left_out()
    assert len(lines_of(handler)) == 2


def test_a_flood_is_one_line_a_period_and_its_counts_add_up(
    handler: PacedHandler, logger: logging.Logger
) -> None:
    began, sent = time.monotonic(), 0
    while time.monotonic() - began < 5 * PERIOD:
        logger.error("fault")
        sent += 1
    handler.close()
    lines = lines_of(handler)
    left_out = [int(re.sub(r"\D", "", line) or 0) for line in lines]
    assert sum(left_out) + len(lines) == sent
    assert len(lines) <= 2 + (time.monotonic() - began) / PERIOD


def test_kinds_do_not_hide_each_other(handler: PacedHandler, logger: logging.Logger) -> None:
    for number in range(3):
        logger.error("one %d", number)
        logger.warning("another %d", number)
        for error in (ValueError("a"), KeyError("b")):
            logger.error("a third", exc_info=error)
    written = [line for line in lines_of(handler) if line.startswith(("ERROR", "WARNING"))]
    assert written == ["ERROR one 0", "WARNING another 0", "ERROR a third", "ERROR a third"]
    assert sum(line.startswith(("ValueError", "KeyError")) for line in lines_of(handler)) == 2


def test_a_line_of_another_kind_tells_what_is_due(handler: PacedHandler, logger: logging.Logger) -> None:
    for number in range(3):
        logger.error("fault %d", number)
    wait()
    logger.warning("another")
    assert lines_of(handler) == [
        "ERROR fault 0",
        "ERROR fault 2 (1 more like it were left out)",
        "WARNING another",
    ]


def test_the_end_tells_the_rest(handler: PacedHandler, logger: logging.Logger) -> None:
    for number in range(2):
        logger.error("fault %d", number)
    handler.close()
    assert lines_of(handler) == ["ERROR fault 0", "ERROR fault 1"]


def test_what_is_left_out_keeps_nothing_alive(handler: PacedHandler, logger: logging.Logger) -> None:
    class Request:
        pass

    def fail() -> weakref.ref[Request]:
        request = Request()
        try:
            raise ValueError(request)
        except ValueError:
            logger.exception("failed on %s", request)
        return weakref.ref(request)

    fail()
    left_out = fail()
    gc.collect()
    assert left_out() is None


def test_no_text_begins_a_line_of_its_own_or_reaches_the_terminal(
    handler: PacedHandler, logger: logging.Logger
) -> None:
    logger.error("a store sent %s", "x\n2026 ERROR forged\r\x1b[2J\x85\u2028y")
    (line,) = lines_of(handler)
    assert line == r"ERROR a store sent x\n2026 ERROR forged\r\x1b[2J\x85\u2028y"


def test_lines_of_libraries_and_of_the_event_loop_are_paced_too() -> None:
    program = """
        import asyncio, logging, logging.config, warnings
        from service.process.logs import keep_telling, log_config
        logging.config.dictConfig(log_config("info"))

        async def main():
            loop = asyncio.get_running_loop()
            keep_telling(loop)
            for number in range(500):
                loop.call_soon(lambda: 1 / 0)
                logging.getLogger("some.library").warning("trouble %d", number)
                logging.getLogger("uvicorn.error").warning("Invalid HTTP request received.")
                logging.getLogger("uvicorn.error").info("unimportant")
                logging.getLogger("bidlight").info("ours")
            await asyncio.sleep(2.5)

        asyncio.run(main())
    """
    ran = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=60
    )
    heads = [line for line in ran.stderr.splitlines() if re.match(r"\d{4}-\d\d-\d\d ", line)]
    kinds = ("Exception in callback", "trouble", "Invalid HTTP request received.", "ours")
    for kind in kinds:
        first, rest = [line for line in heads if kind in line]
        assert "left out" not in first
        assert "(498 more like it were left out)" in rest
    assert len(heads) == 2 * len(kinds)
    assert (ran.returncode, ran.stdout) == (0, "")


def test_the_loop_tells_what_was_left_out(handler: PacedHandler, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = logging.getLogger("bidlight")
    monkeypatch.setattr(ours, "handlers", [handler])
    monkeypatch.setattr(ours, "propagate", False)

    async def flood() -> None:
        logs.keep_telling(asyncio.get_running_loop())
        for _ in range(3):
            ours.error("fault")
        while len(lines_of(handler)) < 2:
            await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(flood(), 20))
    assert lines_of(handler)[1] == "ERROR fault (1 more like it were left out)"
