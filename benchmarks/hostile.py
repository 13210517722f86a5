"""Measures how long a body that is dear to read keeps the event loop, beside an ordinary one of equal size.

`python -m benchmarks.hostile` prints a table: milliseconds of CPU time from the bytes that a connection reads
to those that it writes, the best of some runs, for each body of `loadtest.traffic.hostile`; and how many
times that is of an ordinary body in the same encoding. There is neither a socket nor a client.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import uvloop

from benchmarks.command import Command, ended, print_table
from benchmarks.request import Sink
from loadtest.traffic.hostile import (
    JSON_TYPE,
    MSGPACK_TYPE,
    FieldNames,
    HostileBody,
    hostile_bodies,
    ordinary_body,
)
from service.bundle.schema import Role
from service.http.app import Bidlight, create_app
from service.http.connection import HttpConnection
from service.http.uvicorn_internals import ServerState
from service.process.server import server_config
from service.settings import Settings


class Loop:
    """One connection of a service in this process, and the time that it needs for a body."""

    def __init__(self, app: Bidlight) -> None:
        config, state = server_config(app.settings, app), ServerState()
        config.load()
        self._sink = Sink()
        self._config, self._state = config, state

    async def seconds(self, body: HostileBody) -> tuple[float, str]:
        """CPU seconds from its bytes to its answer, and the status of that answer."""
        head = b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Type: %b\r\nContent-Length: %d\r\n\r\n"
        message = head % (body.media_type.encode(), len(body.content)) + body.content
        connection = HttpConnection(self._config, self._state, {})
        connection.connection_made(self._sink)  # type: ignore[arg-type]
        self._sink.refusal = b"HTTP/1.1 200"
        awaited = self._sink.answers + 1
        started = time.process_time()
        connection.data_received(message)
        while self._sink.answers < awaited:
            await asyncio.sleep(0)
        seconds = time.process_time() - started
        connection.connection_lost(None)
        return seconds, self._sink.refusal[9:12].decode()


async def measure(bundle: Path, size: int, runs: int) -> list[tuple[HostileBody, float, str]]:
    """Each body, its CPU seconds (the best of the runs) and its status; ordinary bodies come first."""
    app = create_app(Settings(arms=(f"control={bundle}",), log_level="error"))
    await app.served.open()
    try:
        fields = app.arms[0].predictor.encoder.schema.fields
        names = FieldNames(
            *(next(f.name for f in fields if f.role is role) for role in (Role.CONTEXT, Role.CANDIDATE))
        )
        bodies = [ordinary_body(names, size, kind) for kind in (JSON_TYPE, MSGPACK_TYPE)]
        bodies += hostile_bodies(names, size)
        loop = Loop(app)
        found = []
        for body in bodies:
            timed = [await loop.seconds(body)]
            while len(timed) < runs and timed[0][0] < 1.0:
                timed.append(await loop.seconds(body))
            found.append((body, min(seconds for seconds, _ in timed), timed[0][1]))
        return found
    finally:
        await app.served.close()


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    command = Command("hostile", __doc__)
    command.bundle()
    command.number("--bytes", 1_000_000, "of a body")
    command.number("--runs", 5, "of each body")
    options = command.parse_args(arguments)
    runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
    found = runner.run(measure(options.bundle, options.bytes, options.runs))
    ordinary = {body.media_type: seconds for body, seconds, _ in found if body.name == "ordinary"}
    rows = [["body", "encoding", "status", "ms", "times an ordinary body"]]
    for body, seconds, status in found:
        ratio = seconds / ordinary[body.media_type]
        rows.append([body.name, body.media_type, status, f"{seconds * 1e3:.1f}", f"{ratio:.1f}"])
    print_table(rows)
    command.print_json(
        bodies={f"{body.name} ({body.media_type})": round(seconds * 1e3, 3) for body, seconds, _ in found},
        bytes=options.bytes,
    )


if __name__ == "__main__":
    sys.exit(ended(main))
