"""`POST /predict` as an ASGI application: reads the body, and sends what a `Prediction` answers."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from starlette.types import Receive, Scope, Send

from service.errors import BodyTooLarge, MethodNotAllowed, UnsupportedMediaType, Yielded
from service.http.heads import Headers
from service.http.intake import Arrival, Intake, Parts
from service.http.prediction import CLIENT_LEFT, Prediction, PredictService
from service.scoring.meter import OK

# How much of a body that is too long is read and dropped, so that its client can read the 413: a socket that
# closes with unread bytes is reset, and the answer is lost.
MAX_DISCARDED_BYTES = 8 * 1_048_576
DISCARD_SECONDS = 2.0


class ClientLeft(Exception):
    """The connection closed before the answer was ready."""


class PredictEndpoint:
    """The ASGI front end of `Prediction`."""

    def __init__(self, service: PredictService) -> None:
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one HTTP request to /predict."""
        prediction = Prediction(self._service, self._service.admission.arrived())
        headers = dict(scope["headers"])
        try:
            if scope["method"] != "POST":
                raise MethodNotAllowed(
                    f"the method must be POST (got {scope['method']!r}); GET /docs describes it", allow="POST"
                )
            prediction.read_headers(headers)
            body = await _read_body(headers, receive, self._service)
            if not self._service.admission.is_open:
                turn = _Turn(self._service, body)
                body = b""  # the turn lets go of it if there is none
                try:
                    body = await _unless_client_leaves(turn.future, receive)
                finally:
                    turn.end()
            future = prediction.submit(body)
            pctrs = await (_unless_client_leaves(future, receive) if prediction.is_behind else future)
            head, answer = prediction.answer(pctrs)
        except ClientLeft:
            prediction.end(CLIENT_LEFT)
        except asyncio.CancelledError:
            prediction.end(CLIENT_LEFT)
            raise
        except Exception as error:
            await _send(send, *prediction.refuse(error))
        else:
            outcome = CLIENT_LEFT
            try:
                await _send(send, 200, [*head.headers], answer)
                outcome = OK
            finally:
                prediction.end(outcome)


class _Turn:
    """A request that waits until there is time for it: its future gets the body, or why it is not read."""

    def __init__(self, service: PredictService, body: bytes) -> None:
        self.future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._service, self._body = service, body
        self._work = 0
        self.size = len(body)
        self.arrived = service.admission.arrived()
        service.admission.wait(self)

    def done(self) -> bool:
        """Whether the client has left."""
        return self.future.done()

    def begin(self) -> None:
        """Wake the task, which begins in the next iteration; its room is taken now."""
        self._work = self._service.admission.start(self.size)
        self.future.set_result(self._body)

    def give_up(self) -> None:
        """Let go of the body."""
        self._body = b""

    def refuse(self) -> None:
        """Answer that it was not read."""
        self.future.set_exception(self._service.unread())

    def end(self) -> None:
        """The task has woken: what it does from now on is accounted for elsewhere."""
        self._service.admission.stop(self._work, is_done=False)


async def _send(send: Send, status: int, headers: Headers, body: bytes) -> None:
    """Send a whole answer."""
    headers.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _read_body(headers: dict[bytes, bytes], receive: Receive, service: PredictService) -> bytes:
    """The body. Raises UnsupportedMediaType, ClientLeft, Yielded, and BodyTooLarge as soon as is known."""
    limit = service.max_body_bytes
    encoding = headers.get(b"content-encoding", b"identity")
    if encoding.lower() != b"identity":
        raise UnsupportedMediaType(
            f"'Content-Encoding' must be identity (got {encoding.decode('latin-1')!r}); send it unpacked"
        )
    declared = headers.get(b"content-length", b"0")
    if declared.isdigit() and int(declared[:19]) > limit:
        # A client that asks first (Expect: 100-continue) has sent no body that had to be discarded.
        if b"expect" not in headers:
            await _discard(receive)
        raise _too_large(int(declared[:19]), limit)
    message = await receive()
    body: bytes = message.get("body", b"")
    if message.get("more_body"):
        body = await _read_parts(body, receive, service.intake, limit)
    elif message["type"] == "http.disconnect":
        raise ClientLeft
    if len(body) > limit:
        raise _too_large(len(body), limit)
    return body


async def _read_parts(first: bytes, receive: Receive, intake: Intake, limit: int) -> bytes:
    """A body from its `first` part on. Raises ClientLeft, BodyTooLarge, and Yielded if it must."""
    patience, parts = asyncio.timeout(None), Parts()
    parts.add(first)
    arrival = Arrival(intake, lambda: patience.reschedule(0.0))
    try:
        async with patience:
            more_body = True
            while more_body:
                arrival.hold(parts.size)
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientLeft
                parts.add(message.get("body", b""))
                more_body = message.get("more_body", False)
                if parts.size > limit and more_body:
                    await _discard(receive)
                    raise _too_large(parts.size, limit)
    except TimeoutError:
        raise Yielded(str(intake.refusal())) from None
    finally:
        arrival.hold(0)
    return parts.joined()


def _too_large(size: int, limit: int) -> BodyTooLarge:
    return BodyTooLarge(f"the body must be {limit} bytes at most (got {size} or more); split the request")


async def _unless_client_leaves(future: asyncio.Future[Any], receive: Receive) -> Any:
    """The future's result. Raises ClientLeft as soon as the connection closes: the rows need not run then.

    Only for requests that wait for a later batch: watching takes a task, and the next batch is due at once.
    """
    left = asyncio.ensure_future(_until_disconnected(receive))
    left.add_done_callback(lambda _: future.cancel())
    try:
        return await future
    except asyncio.CancelledError:
        if left.done() and not left.cancelled():
            raise ClientLeft from None
        raise
    finally:
        left.cancel()


async def _until_disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _discard(receive: Receive) -> None:
    size, more_body = 0, True
    # A client that declared too much may also send nothing; it gets its answer all the same.
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(DISCARD_SECONDS):
            while more_body and size < MAX_DISCARDED_BYTES:
                message = await receive()
                size += len(message.get("body", b""))
                more_body = message.get("more_body", False)
