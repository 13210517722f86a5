"""`POST /predict` as an ASGI application: reads the body, and sends what a `Prediction` answers."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.types import Receive, Scope, Send

from service.errors import MethodNotAllowed
from service.http.bodies import ClientLeft, read_body, send_whole
from service.http.heads import headers_by_name
from service.http.predict_service import PredictService
from service.http.prediction import CLIENT_LEFT, Prediction
from service.scoring.meter import OK

# The key of a scope under which a connection says when the request's first byte came, a perf_counter().
FIRST_BYTE = "bidlight.first_byte"


class PredictEndpoint:
    """The ASGI front end of `Prediction`."""

    def __init__(self, service: PredictService) -> None:
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one HTTP request to /predict."""
        first_byte = scope.get(FIRST_BYTE)
        started = self._service.admission.arrived() if first_byte is None else first_byte
        prediction = Prediction(self._service, started)
        headers = headers_by_name(scope["headers"])
        try:
            if scope["method"] != "POST":
                raise MethodNotAllowed(
                    f"the method must be POST (got {scope['method']!r}); GET /docs describes it", allow="POST"
                )
            prediction.read_headers(headers)
            body = await read_body(headers, receive, self._service.max_body_bytes, self._service.intake)
            submit = prediction.submit
            if not self._service.admission.is_open:
                turn = _Turn(self._service, body)
                body = b""  # the turn lets go of it if there is none
                try:
                    body = await _unless_client_leaves(turn.future, receive)
                finally:
                    turn.end()
                if turn.is_late:
                    submit = prediction.submit_late
            future = submit(body)
            pctrs = await (_unless_client_leaves(future, receive) if prediction.is_behind else future)
            head, answer = prediction.answer(pctrs)
        except ClientLeft:
            prediction.end(CLIENT_LEFT)
        except asyncio.CancelledError:
            prediction.end(CLIENT_LEFT)
            raise
        except Exception as error:
            await send_whole(send, *prediction.refuse(error))
        else:
            outcome = CLIENT_LEFT
            try:
                await send_whole(send, 200, [*head.headers], answer)
                outcome = OK
            finally:
                prediction.end(outcome)


class _Turn:
    """A request that waits until there is time for it: its future gets the body, or why it is not read."""

    def __init__(self, service: PredictService, body: bytes) -> None:
        self.future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._service, self._body = service, body
        self._work = 0
        self.is_late = False
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

    def begin_unscored(self) -> None:
        """Wake the task for an answer without the model."""
        self.is_late = True
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
