"""Serves the application with uvicorn, alone or in a worker; it knows no route, model or other process."""

from __future__ import annotations

import asyncio
import copy
import os
import signal
import socket
from collections.abc import Callable
from typing import Any, cast

import uvicorn

from service.http.connection import HttpConnection
from service.process.listener import Listener
from service.process.logs import keep_telling, log_config
from service.process.tls import tls_context
from service.settings import Settings

# Connections to the admin port for which there is room when clients have taken all that there was.
ADMIN_CONNECTIONS = 16


def server_config(settings: Settings, app: Any) -> uvicorn.Config:
    """uvicorn's configuration. Raises BadConfiguration for files that do not make TLS."""
    tls = tls_context(settings)
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
        ssl_context_factory=None if tls is None else lambda *_: tls,
    )


class Server(uvicorn.Server):
    """A uvicorn server that reports its port when it listens, and when it accepts no more connections.

    Its connections are accepted by a Listener, and those of the socket `admin`, if there is one, by another.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        on_started: Callable[[int], object],
        on_stopping: Callable[[], object] = lambda: None,
        admin: socket.socket | None = None,
    ) -> None:
        super().__init__(config)
        self._admin = admin
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
            if self._admin is not None:
                self._admin.listen(self.config.backlog)
                listeners.append(self._admin_listener(self._admin))
            self.servers = cast("list[asyncio.Server]", listeners)
            keep_telling(asyncio.get_running_loop())
            self.config.loaded_app.served.also_read.append(self._read_tls)
            self._on_started(self.servers[0].sockets[0].getsockname()[1])

    def _listening(self) -> list[socket.socket]:
        return [each for server in self.servers for each in server.sockets]

    def _listener(self, listening: socket.socket, rest: int) -> Listener:
        config = self.config
        return Listener(
            listening,
            lambda: HttpConnection(config, self.server_state, self.lifespan.state),
            self.server_state.connections,
            self._count_pause,
            rest,
            tls=lambda: config.ssl,
        )

    def _admin_listener(self, listening: socket.socket) -> Listener:
        config = copy.copy(self.config)
        config.loaded_app = self.config.loaded_app.admin
        return Listener(
            listening,
            lambda: HttpConnection(config, self.server_state, self.lifespan.state),
            self.server_state.connections,
            self._count_pause,
            rest=0,
            spare=ADMIN_CONNECTIONS,
        )

    def _read_tls(self) -> Callable[[], object]:
        """Read the files of TLS again; what is returned lets new connections have them."""
        tls = tls_context(self.config.loaded_app.settings)
        return lambda: setattr(self.config, "ssl", tls)

    def _count_pause(self, reason: str) -> None:
        self.config.loaded_app.metrics.accept_pauses.labels(reason).inc()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Report the stop, then close the listening sockets and answer the requests in flight."""
        self._on_stopping()
        await super().shutdown(sockets)
