"""How uvicorn serves the application, alone or as workers of a supervisor; it knows no route and no model."""

from __future__ import annotations

import logging
import os
import signal
import socket
from collections.abc import Callable
from typing import Any

import uvicorn
from prometheus_client.multiprocess import mark_process_dead
from uvicorn.supervisors.multiprocess import Multiprocess, Process

from service.connection import Connection
from service.settings import Settings

STARTUP_FAILURE = 3
WORKER_SECONDS = 60


class DropEcho(logging.Filter):
    """Drops the server's second line about a start that failed: the first has said why."""

    def filter(self, record: logging.LogRecord) -> bool:
        """False for the echo."""
        return not record.getMessage().startswith("Application startup failed")


def server_config(settings: Settings, app: Any) -> uvicorn.Config:
    """uvicorn's configuration; `app` is the application, or the import path of what makes it (workers)."""
    return uvicorn.Config(
        app,
        factory=isinstance(app, str),
        host=settings.host,
        port=settings.port,
        workers=settings.workers,
        loop="uvloop",
        http=Connection,
        ws="none",
        lifespan="on",
        # Both wrap or lengthen every request, and no one reads them.
        proxy_headers=False,
        server_header=False,
        access_log=False,
        backlog=settings.backlog,
        timeout_keep_alive=settings.keep_alive_seconds,
        timeout_graceful_shutdown=settings.drain_seconds,
        # Loading a large vocabulary keeps a worker from telling its supervisor that it lives.
        timeout_worker_healthcheck=WORKER_SECONDS,
        log_config=log_config(settings.log_level),
    )


def log_config(level: str) -> dict[str, Any]:
    """One line a record on stderr; of uvicorn, which tells the life of every process, only what is wrong."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "filters": {"echo": {"()": DropEcho}},
        "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(message)s"}},
        "handlers": {
            "stderr": {"class": "logging.StreamHandler", "formatter": "line", "filters": ["echo"]},
        },
        "loggers": {
            "bidlight": {"handlers": ["stderr"], "level": level.upper(), "propagate": False},
            "uvicorn": {
                "handlers": ["stderr"],
                "level": "DEBUG" if level == "debug" else "WARNING",
                "propagate": False,
            },
        },
    }


class AnnouncingServer(uvicorn.Server):
    """A server that says, once it listens, what `text` makes of its port."""

    def __init__(self, config: uvicorn.Config, text: Callable[[int], str]) -> None:
        super().__init__(config)
        self._text = text

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until told to stop, and then return: uvicorn raises the signal again after it has drained."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)
        super().run(sockets)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start listening, then say so."""
        await super().startup(sockets)
        if self.started:
            print(self._text(self.servers[0].sockets[0].getsockname()[1]), flush=True)


class Supervisor(Multiprocess):
    """uvicorn's supervisor; besides, it announces the service and forgets the gauges of dead workers.

    A worker that dies is started again; one that cannot start stops the service, since the next could not.
    """

    def __init__(self, config: uvicorn.Config, sock: socket.socket, text: str) -> None:
        super().__init__(config, [sock])
        self._text: str | None = text
        self._failed = False
        self._known: dict[int, Process] = {}

    def run_until_stopped(self) -> int:
        """Supervise until a signal; the exit status."""
        self.run()
        return STARTUP_FAILURE if self._failed else 0

    def keep_subprocess_alive(self) -> None:
        """Look after the workers, twice a second; also after those that a signal took away meanwhile."""
        self._known |= {process.pid: process for process in self.processes if process.pid is not None}
        super().keep_subprocess_alive()
        for pid, process in list(self._known.items()):
            if process.exitcode is not None:
                self._failed = self._failed or process.exitcode == STARTUP_FAILURE
                mark_process_dead(pid)  # type: ignore[no-untyped-call]
                del self._known[pid]
        if self._text is not None and all(process.is_ready(timeout=1) for process in self.processes):
            print(self._text, flush=True)
            self._text = None

    def handle_hup(self) -> None:
        """Let every worker reload its arms."""
        for process in self.processes:
            if process.pid is not None:
                os.kill(process.pid, signal.SIGHUP)

    def terminate_all(self) -> None:
        """Stop the workers; the socket first, or connections would wait here for nobody to accept them."""
        for sock in self.sockets:
            sock.close()
        super().terminate_all()
