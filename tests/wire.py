"""A connection to an application in this process, with both of its ends in the hands of a test."""

from __future__ import annotations

import asyncio
import socket
from functools import partial

from service.http.app import Bidlight
from service.http.connection import HttpConnection
from service.http.uvicorn_internals import ServerState
from service.process.server import server_config


class Wire:
    """Both ends of a connection to an application: the client's, and the service's protocol."""

    def __init__(self, app: Bidlight) -> None:
        self.state = ServerState()
        config = server_config(app.settings, app)
        config.load()
        self.make = partial(HttpConnection, config=config, server_state=self.state, app_state={})

    async def __aenter__(self) -> Wire:
        ours, theirs = socket.socketpair()
        loop = asyncio.get_running_loop()
        ours.setblocking(False)
        self.transport, self.protocol = await loop.create_connection(self.make, sock=ours)
        self.reader, self.writer = await asyncio.open_connection(sock=theirs)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.close()
        self.transport.abort()
        await asyncio.sleep(0)

    async def send(self, *packets: bytes) -> None:
        """Send packets one by one: the service reads each before the next arrives."""
        for packet in packets:
            self.writer.write(packet)
            await self.writer.drain()
            for _ in range(3):
                await asyncio.sleep(0)

    async def receive(self, answers: int) -> list[bytes]:
        """Read so many answers, including interim ones, or fewer if the connection closes."""
        found = list[bytes]()
        while len(found) < answers:
            try:
                head = await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), 20)
            except asyncio.IncompleteReadError:
                break
            length = next(
                (int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"content-length:")), 0
            )
            body = await asyncio.wait_for(self.reader.readexactly(length), 20)
            found.append(head + body)
        return found
