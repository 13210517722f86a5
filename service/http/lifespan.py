"""What happens around the requests of an application: its start, publishing, reloads and its end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from service.arms.serving import ServedArms

logger = logging.getLogger("bidlight")

PUBLISH_SECONDS = 1.0
# A scrape asks one of several processes; of the others it shows what they have published. A killed process
# loses what it has not published.
SHARED_PUBLISH_SECONDS = 0.05


@asynccontextmanager
async def keep_serving(served: ServedArms, publish_seconds: float, reloads: bool) -> AsyncIterator[None]:
    """Open the arms, publish and reload them while this lasts, and close them; raises BadConfiguration.

    With `reloads`, SIGHUP reloads them.
    """
    # Before they are opened: a SIGHUP meanwhile must neither end the process nor get lost.
    with _reload_signal(served, reloads):
        await served.open()
        tasks = (
            asyncio.create_task(_publish_forever(served, publish_seconds)),
            asyncio.create_task(_reload_forever(served)),
        )
        yield
    for task in tasks:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    await served.close()


async def _publish_forever(served: ServedArms, seconds: float) -> None:
    works = True
    while True:
        try:
            served.publish()
            works = True
        except Exception:  # requests are answered all the same, and the next time may work
            if works:  # log the first of many failures in a row
                logger.exception("the metrics cannot be published; this is tried again until it works")
            works = False
        await asyncio.sleep(seconds)


async def _reload_forever(served: ServedArms) -> None:
    while True:
        await served.reload_when_asked()


@contextmanager
def _reload_signal(served: ServedArms, listens: bool) -> Iterator[None]:
    """SIGHUP asks for a reload while this lasts, if it `listens` and runs in the main thread."""
    loop = asyncio.get_running_loop()
    listens = listens and threading.current_thread() is threading.main_thread()
    if listens:
        loop.add_signal_handler(signal.SIGHUP, served.request)
    try:
        yield
    finally:
        if listens:
            loop.remove_signal_handler(signal.SIGHUP)
