"""`POST /control` of the admin port: commands to the service, for whoever has a token of their own.

Any worker answers; it passes the command on to the process that has the control socket. It does not know what
a command does.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import closing

from fastapi import FastAPI, Request, Response
from starlette.requests import ClientDisconnect

from service.control.client import MAX_ANSWER_BYTES
from service.control.protocol import MAX_COMMAND_BYTES, Answer, answer_of, command_of, line_of, name_of
from service.errors import BodyTooLarge, NotReady, ServiceError, Unauthorized, UnknownArm
from service.http.heads import CONTROL_PATH
from service.http.routes import answer_error
from service.http.tokens import Tokens, read_tokens
from service.settings import Settings

logger = logging.getLogger("bidlight")

# How long the process that has the socket may take.
ANSWER_SECONDS = 30.0
REFUSED = 422


class ControlRoute:
    """The route, with the tokens and the socket of the settings. Raises BadConfiguration for no tokens."""

    def __init__(self, settings: Settings) -> None:
        self._file = settings.control_token_file
        self._socket = settings.control_socket
        self._tokens = self._read()

    def add_to(self, app: FastAPI) -> None:
        """Register it. The interface that the service describes is that of bids."""
        app.add_api_route(CONTROL_PATH, self._answer, methods=["POST"], include_in_schema=False)

    def read_tokens(self) -> Callable[[], object]:
        """Read the file of tokens again; what is returned puts them into place. Raises BadConfiguration."""
        tokens = self._read()
        return lambda: setattr(self, "_tokens", tokens)

    def _read(self) -> Tokens:
        tokens = read_tokens(self._file, "control_token_file")
        assert tokens is not None
        return tokens

    async def _answer(self, request: Request) -> Response:
        try:
            if not self._tokens.accept(request.headers.get("authorization", "").encode("latin-1")):
                raise Unauthorized(
                    "'Authorization' must be Bearer and a token for commands; ask the operator"
                )
            command = command_of(await _body_of(request))
            asker = "an unknown address" if request.client is None else request.client.host
            logger.info("%s asks over HTTP to %s", asker, name_of(command))
            answer = await _ask(self._socket, line_of(command))
        except ServiceError as error:
            return answer_error(error)
        except ClientDisconnect:
            return Response(status_code=400)  # which nobody reads
        status = 200
        if answer.error is not None:
            status = UnknownArm.status if answer.error.code == UnknownArm.code else REFUSED
        return Response(line_of(answer), status, media_type="application/json")


async def _body_of(request: Request) -> bytes:
    """The body. Raises BodyTooLarge; the rest is not read then."""
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MAX_COMMAND_BYTES:
            raise BodyTooLarge(f"a command must be {MAX_COMMAND_BYTES} bytes at most; name fewer arms")
    return bytes(body)


async def _ask(path: str, line: bytes) -> Answer:
    """The answer of the process that has the socket. Raises NotReady, MalformedBody."""
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            reader, writer = await asyncio.open_unix_connection(path, limit=MAX_ANSWER_BYTES)
            with closing(writer):
                writer.write(line)
                return answer_of(await reader.readuntil(b"\n"))
    except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        raise NotReady("the process that takes commands must answer, and does not; try again") from None
