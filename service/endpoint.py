"""`POST /predict` as a bare ASGI callable: bytes in, bytes out, and nothing of a framework in between.

It knows the order of the steps and how a refusal is sent; each step is another module's.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from time import perf_counter
from typing import Any

from service.arms import Arm, ArmTable
from service.bidding import BidPolicy, bids
from service.errors import (
    BodyTooLarge,
    MethodNotAllowed,
    NotReady,
    ServiceError,
    UnsupportedMediaType,
)
from service.metrics import Metrics
from service.settings import Settings
from service.wire import PredictRequest, answer_of, codec_for, count_rows, decode_request, money_of

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

logger = logging.getLogger("bidlight")

CLIENT_LEFT = "client_left"
# What is read and thrown away of a body that is too long, so that its client gets to read the 413: a socket
# closed with unread bytes is reset, and the answer is lost with it.
MAX_DISCARDED_BYTES = 8 * 1_048_576
DISCARD_SECONDS = 2.0


class ClientLeft(Exception):
    """The connection closed before the answer was ready."""


class PredictEndpoint:
    """Reads a bid request, has its arm score it and answers; refuses until it is opened with its arms."""

    def __init__(self, settings: Settings, metrics: Metrics, policy: BidPolicy) -> None:
        self._max_body_bytes = settings.max_body_bytes
        self._max_candidates = settings.max_candidates
        self._metrics = metrics
        self._policy = policy
        self._arms: ArmTable | None = None
        self._arm_headers: dict[str, Headers] = {}

    def open(self, arms: ArmTable) -> None:
        """Let traffic in."""
        self._arm_headers = {
            arm.name: [(b"x-arm", _token(arm.name)), (b"x-bundle", _token(arm.predictor.manifest.id))]
            for arm in arms.arms
        }
        self._arms = arms

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one HTTP request to /predict."""
        started = perf_counter()
        headers = dict(scope["headers"])
        arm: Arm | None = None
        try:
            if scope["method"] != "POST":
                raise MethodNotAllowed(
                    f"the method must be POST (got {scope['method']!r}); GET /docs describes it", allow="POST"
                )
            codec = codec_for(headers.get(b"content-type"))
            body = await self._read(headers, receive)
            received = perf_counter()
            request = decode_request(body, codec)
            rows = count_rows(request.candidates, self._max_candidates)
            decoded = perf_counter()
            arm = self._choose(headers, request)
            predictor = arm.predictor
            ids = predictor.encode(request, rows)
            meter = predictor.meter
            if meter is not None:
                meter.decode.inc(decoded - received)
                meter.encode.inc(perf_counter() - decoded)
                unknown = predictor.unknown_names(request)
                if unknown:
                    meter.count_unknown(unknown)
            deadline = None if request.tmax_ms is None else started + request.tmax_ms * 0.001
            future = predictor.submit(ids, deadline)
            pctrs = await (_unless_client_leaves(future, receive) if predictor.batcher.is_behind else future)
            offers = bids(pctrs, *money_of(request.candidates, rows), self._policy)
            answer = codec.encode(answer_of(request, arm.name, predictor.manifest.id, pctrs, offers))
        except ServiceError as error:
            await self._refuse(error, arm, send)
        except ClientLeft:
            self._metrics.refuse(arm.name if arm else "", CLIENT_LEFT)
        except Exception:
            logger.exception("a request to /predict failed")
            failure = ServiceError("the service failed on this request; it has logged why")
            await self._refuse(failure, arm, send)
        else:
            await send_answer(
                send, 200, [(b"content-type", codec.media_type), *self._arm_headers[arm.name]], answer
            )
            if meter is not None:
                meter.count_bids(offers)
                meter.answered.inc()
                meter.latency.observe(perf_counter() - started)

    def _choose(self, headers: dict[bytes, bytes], request: PredictRequest) -> Arm:
        if self._arms is None:
            raise NotReady("the arms must replay their golden rows first; try again in a moment")
        pinned = headers.get(b"x-arm")
        key = headers.get(b"x-split-key")
        # UTF-8, so that a key is dealt the same as the header and as user_id; any other bytes are a key too.
        return self._arms.choose(
            None if pinned is None else pinned.decode("utf-8", "surrogateescape"),
            key.decode("utf-8", "surrogateescape") if key else request.user_id or request.id,
        )

    async def _read(self, headers: dict[bytes, bytes], receive: Receive) -> bytes:
        """The body; raises BodyTooLarge as soon as it is, by its header or by what came, and ClientLeft."""
        encoding = headers.get(b"content-encoding", b"identity")
        if encoding.lower() != b"identity":
            raise UnsupportedMediaType(
                f"'Content-Encoding' must be identity (got {encoding.decode('latin-1')!r}); send it unpacked"
            )
        limit = self._max_body_bytes
        declared = headers.get(b"content-length", b"0")
        if declared.isdigit() and int(declared[:19]) > limit:
            # A client that asks first (Expect: 100-continue) has sent nothing that would have to be read.
            if b"expect" not in headers:
                await _discard(receive)
            raise self._too_large(int(declared[:19]))
        message = await receive()
        body: bytes = message.get("body", b"")
        if message.get("more_body"):
            chunks, size = [body], len(body)
            while message.get("more_body"):
                if size > limit:
                    await _discard(receive)
                    raise self._too_large(size)
                message = await receive()
                chunks.append(message.get("body", b""))
                size += len(chunks[-1])
            body = b"".join(chunks)
        if message["type"] == "http.disconnect":
            raise ClientLeft
        if len(body) > limit:
            raise self._too_large(len(body))
        return body

    def _too_large(self, size: int) -> BodyTooLarge:
        return BodyTooLarge(
            f"the body must be {self._max_body_bytes} bytes at most (got {size} or more); split the request"
        )

    async def _refuse(self, error: ServiceError, arm: Arm | None, send: Send) -> None:
        self._metrics.refuse(arm.name if arm else "", error.code)
        await send_error(send, error, self._arm_headers[arm.name] if arm else None)


async def send_error(send: Send, error: ServiceError, headers: Headers | None = None) -> None:
    """Send the one error answer there is, whatever the route."""
    found = [(b"content-type", b"application/json"), *(headers or []), *error.headers()]
    await send_answer(send, error.status, found, error.body())


async def send_answer(send: Send, status: int, headers: Headers, body: bytes) -> None:
    """Send a whole answer."""
    headers.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _unless_client_leaves(future: asyncio.Future[Any], receive: Receive) -> Any:
    """The future's result, or ClientLeft as soon as the connection closes: then its rows need not run.

    Only for requests that wait for a later batch: watching costs a task, and the next batch is due at once.
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
    # A client that announced too much may also send nothing: it has its answer all the same.
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(DISCARD_SECONDS):
            while more_body and size < MAX_DISCARDED_BYTES:
                message = await receive()
                size += len(message.get("body", b""))
                more_body = message.get("more_body", False)


def _token(text: str) -> bytes:
    """`text` as a header's value may be: printable ASCII, anything else as a question mark."""
    return "".join(char if " " < char <= "~" else "?" for char in text).encode("ascii")
