"""Serves the application with uvicorn, alone or in a worker; it knows no route, model or other process."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Callable
from typing import Any, cast

import uvicorn

from service.http.connection import HttpConnection
from service.http.uvicorn_internals import STARTUP_FAILED
from service.process.listener import Listener
from service.settings import Settings


class DropEcho(logging.Filter):
    """Drops uvicorn's second line about a failed start: the first gives the reason."""

    def filter(self, record: logging.LogRecord) -> bool:
        """False for that line."""
        return not record.getMessage().startswith(STARTUP_FAILED)


def server_config(settings: Settings, app: Any) -> uvicorn.Config:
    """uvicorn's configuration."""
    return uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        loop="uvloop",
        http=HttpConnection,
        ws="none",
        lifespan="on",
        # Both cost time or bytes at every request and have no reader.
        proxy_headers=False,
        server_header=False,
        access_log=False,
        backlog=settings.backlog,
        timeout_keep_alive=settings.keep_alive_seconds,
        timeout_graceful_shutdown=settings.drain_seconds,
        log_config=log_config(settings.log_level),
    )


def log_config(level: str) -> dict[str, Any]:
    """One line a record on stderr; of uvicorn only warnings: it logs the start and end of every process."""
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


class Server(uvicorn.Server):
    """A uvicorn server that reports its port when it listens, and when it accepts no more connections.

    Its connections are accepted by a Listener.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        on_started: Callable[[int], object],
        on_stopping: Callable[[], object] = lambda: None,
    ) -> None:
        super().__init__(config)
        self._on_started = on_started
        self._on_stopping = on_stopping

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until told to stop, then return; uvicorn raises the signal again after draining."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self.handle_exit)
        super().run(sockets)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start listening, then report the port."""
        await super().startup(sockets)
        if self.started:
            # uvicorn has resolved the address and bound its sockets; from here on they are ours.
            taken = [socket.socket(fileno=os.dup(each.fileno())) for each in self._listening()]
            for server in self.servers:
                server.close()
            # Connections that wait at the socket of a worker are its successor's.
            rest = self.config.backlog if sockets is None else 0
            listeners = [self._listener(each, rest) for each in taken]
            self.servers = cast("list[asyncio.Server]", listeners)
            self._on_started(self.servers[0].sockets[0].getsockname()[1])

    def _listening(self) -> list[socket.socket]:
        return [each for server in self.servers for each in server.sockets]

    def _listener(self, listening: socket.socket, rest: int) -> Listener:
        config, app = self.config, self.config.loaded_app

        def make() -> HttpConnection:
            return HttpConnection(config, self.server_state, self.lifespan.state)

        def count_pause(reason: str) -> None:
            app.metrics.accept_pauses.labels(reason).inc()

        admission = app.predict_service.admission
        connections = self.server_state.connections
        return Listener(listening, make, connections, count_pause, rest, lambda: admission.is_behind)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Report the stop, then close the listening sockets and answer the requests in flight."""
        self._on_stopping()
        await super().shutdown(sockets)
