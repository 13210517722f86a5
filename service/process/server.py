"""Serves the application with uvicorn, alone or in a worker; it knows no route, model or other process."""

from __future__ import annotations

import asyncio
import copy
import gc
import os
import signal
import socket
from collections.abc import Callable
from types import FrameType
from typing import Any, cast

import uvicorn

from service.errors import BadConfiguration
from service.http.connection import HttpConnection
from service.process.listener import Listener
from service.process.logs import keep_telling, log_config
from service.process.signals import end_at_once
from service.process.sockets import drop_new_connections, listen_admin
from service.process.tls import tls_context
from service.settings import Settings

# So many more objects than before must live until the collector runs. Requests and connections leave it
# nothing to do, and with its own 700 it would look several times at each object of those under way.
COLLECTED_OBJECTS = 50_000
# How long connections are still accepted at the end: a handshake takes one way through the network.
LAST_ACCEPTS_SECONDS = 0.2
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
        gc.set_threshold(COLLECTED_OBJECTS)
        super().run(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop; at once before the start is over: a load may take long, and nobody is answered yet."""
        if not self.started:
            self._on_stopping()
            end_at_once(0)
        super().handle_exit(sig, frame)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start listening, then report the port. Raises BadConfiguration."""
        await super().startup(sockets)
        if self.started and not self.should_exit:
            # uvicorn has resolved the address and bound its sockets; from here on they are ours.
            taken = [socket.socket(fileno=os.dup(each.fileno())) for each in self._listening()]
            for server in self.servers:
                server.close()
            listeners = [self._listener(each) for each in taken]
            if self._admin is not None:
                await self._listen_admin(self._admin)
                listeners.append(self._admin_listener(self._admin))
            self.servers = cast("list[asyncio.Server]", listeners)
            keep_telling(asyncio.get_running_loop())
            self.config.loaded_app.served.also_read.append(self._read_tls)
            self._on_started(self.servers[0].sockets[0].getsockname()[1])

    async def _listen_admin(self, admin: socket.socket) -> None:
        try:
            listen_admin(admin, self.config.backlog)
        except BadConfiguration:
            await self.lifespan.shutdown()
            self.started = False
            raise

    def _listening(self) -> list[socket.socket]:
        return [each for server in self.servers for each in server.sockets]

    def _listener(self, listening: socket.socket) -> Listener:
        admission = self.config.loaded_app.predict_service.admission
        return self._listener_to(
            self.config,
            listening,
            tls=lambda: self.config.ssl,
            is_behind=lambda: admission.is_behind,
        )

    def _admin_listener(self, listening: socket.socket) -> Listener:
        config = copy.copy(self.config)
        config.loaded_app = self.config.loaded_app.admin
        return self._listener_to(config, listening, spare=ADMIN_CONNECTIONS)

    def _listener_to(self, config: uvicorn.Config, listening: socket.socket, **options: Any) -> Listener:
        """A listener whose connections lead to the application of `config`."""
        return Listener(
            listening,
            lambda: HttpConnection(config, self.server_state, self.lifespan.state),
            self.server_state.connections,
            self._count_pause,
            config.backlog,
            **options,
        )

    def _read_tls(self) -> Callable[[], object]:
        """Read the files of TLS again; what is returned lets new connections have them."""
        tls = tls_context(self.config.loaded_app.settings)
        return lambda: setattr(self.config, "ssl", tls)

    def _count_pause(self, reason: str) -> None:
        self.config.loaded_app.metrics.accept_pauses.labels(reason).inc()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Report the stop, serve whom the kernel has accepted, stop listening, and answer what is in flight.

        The sockets of a worker are the supervisor's: it lets nobody new wait there if the service stops, and
        a successor serve them if not. Signals may come to all processes at once: it gets a moment for that.
        """
        self._on_stopping()
        if sockets is None:
            for each in self._listening():
                drop_new_connections(each)
        await asyncio.sleep(LAST_ACCEPTS_SECONDS)
        await super().shutdown(sockets)
