"""`POST /predict` as a bare ASGI callable: bytes in, bytes out, and nothing of a framework in between.

It knows the order of the steps and how a refusal is sent; each step is another module's.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from functools import partial
from time import perf_counter
from typing import Any

from service.arms.split import Arm, ArmTable
from service.bidding import BidPolicy, bids
from service.errors import (
    BodyTooLarge,
    MethodNotAllowed,
    NotReady,
    ServiceError,
    UnsupportedMediaType,
)
from service.features.store import INVALID
from service.features.users import UserFeatures
from service.http.answer_head import ArmHead, Head, Headers
from service.http.known_heads import KnownHeads
from service.metrics.families import Metrics
from service.scoring.batcher import Outcome
from service.scoring.meter import ArmMeter
from service.scoring.predictor import Probabilities
from service.scoring.rows import RequestRows
from service.settings import Settings
from service.wire import (
    Codec,
    PredictRequest,
    answer_of,
    codec_for,
    count_rows,
    decode_request,
    money_of,
)

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

logger = logging.getLogger("bidlight")

CLIENT_LEFT = "client_left"
# What is read and thrown away of a body that is too long, so that its client gets to read the 413: a socket
# closed with unread bytes is reset, and the answer is lost with it.
MAX_DISCARDED_BYTES = 8 * 1_048_576
DISCARD_SECONDS = 2.0


class ClientLeft(Exception):
    """The connection closed before the answer was ready."""


class Prediction:
    """What is known of a request between its headers and its answer, as far as it has come."""

    __slots__ = ("arm", "codec", "head", "meter", "request", "rows", "started")

    arm: Arm
    codec: Codec
    head: ArmHead
    request: PredictRequest
    rows: int

    def __init__(self, started: float) -> None:
        self.started = started
        self.meter: ArmMeter | None = None

    @property
    def arm_name(self) -> str:
        """The chosen arm; empty before one is chosen."""
        arm: Arm | None = getattr(self, "arm", None)
        return "" if arm is None else arm.name


class PredictEndpoint:
    """Reads a bid request, has its arm score it and answers; refuses until it is opened with its arms.

    Called, it is an ASGI application. `accept`, `answer` and the rest are its steps for whoever brings the
    bytes of a request and takes those of the answer in another way.
    """

    def __init__(
        self, settings: Settings, metrics: Metrics, policy: BidPolicy, users: UserFeatures | None = None
    ) -> None:
        self.max_body_bytes = settings.max_body_bytes
        self.known_heads = KnownHeads()
        self._max_candidates = settings.max_candidates
        self._metrics = metrics
        self._is_metered = settings.metrics == "on"
        self._policy = policy
        self._users = users
        self._arms: ArmTable | None = None
        self._heads: dict[Arm, ArmHead] = {}

    def open(self, arms: ArmTable) -> None:
        """Let traffic in."""
        self._heads = {arm: ArmHead(arm) for arm in arms.arms}
        self._arms = arms

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one HTTP request to /predict."""
        prediction = Prediction(perf_counter())
        headers = dict(scope["headers"])
        try:
            if scope["method"] != "POST":
                raise MethodNotAllowed(
                    f"the method must be POST (got {scope['method']!r}); GET /docs describes it", allow="POST"
                )
            codec_for(headers.get(b"content-type"))  # refused before the body is read
            body = await self._read(headers, receive)
            future = self.accept(prediction, headers, body)
            is_behind = prediction.arm.predictor.batcher.is_behind
            pctrs = await (_unless_client_leaves(future, receive) if is_behind else future)
            found, answer = self.answer(prediction, pctrs)
        except ClientLeft:
            self.count_left(prediction)
        except Exception as error:
            await send_answer(send, *self.refusal(prediction, error))
        else:
            await send_answer(send, 200, [*found.headers], answer)
            self.count_answered(prediction)

    def accept(
        self,
        prediction: Prediction,
        headers: dict[bytes, bytes],
        body: bytes,
        outcome: Outcome | None = None,
    ) -> Any:
        """Bytes -> rows in the queue of an arm, whose pCTRs go to `outcome`, or else to the future returned.

        Raises ServiceError. A request whose user is looked up is queued later, and what is wrong with it goes
        the way of the pCTRs.
        """
        prediction.codec = codec_for(headers.get(b"content-type"))
        received = perf_counter()
        prediction.request = request = decode_request(body, prediction.codec)
        prediction.rows = rows = count_rows(request.candidates, self._max_candidates)
        decoded = perf_counter()
        prediction.arm = arm = self._choose(headers, request)
        prediction.head = self._heads[arm]
        predictor = arm.predictor
        prediction.meter = meter = predictor.meter
        if meter is not None:
            meter.under_way += 1
            meter.decode_seconds += decoded - received
        predictor.batcher.require_room(rows)
        if self._users is None or request.user_id is None or not predictor.lacks_context(request):
            return self._submit(prediction, predictor.encode(request, rows), decoded, outcome)
        if outcome is None:
            outcome = asyncio.get_running_loop().create_future()
        self._users.find(request.user_id, partial(self._go_on, prediction, outcome))
        return outcome

    def _go_on(
        self, prediction: Prediction, outcome: Outcome, user: dict[str, Any], is_missing: str | None
    ) -> None:
        """Queue the rows of a request whose user was looked up."""
        if outcome.done():
            return
        predictor = prediction.arm.predictor
        found = perf_counter()
        try:
            rows, is_valid = predictor.encode_with(prediction.request, prediction.rows, user)
            if prediction.meter is not None:
                prediction.meter.count_user(is_missing if is_valid else INVALID)
            self._submit(prediction, rows, found, outcome)
        except Exception as error:
            outcome.set_exception(error)

    def _submit(
        self, prediction: Prediction, rows: RequestRows, encoding_since: float, outcome: Outcome | None
    ) -> Any:
        """Queue the rows of a request. Raises Overloaded."""
        request, predictor, meter = prediction.request, prediction.arm.predictor, prediction.meter
        if meter is not None:
            meter.encode_seconds += perf_counter() - encoding_since
            unknown = predictor.unknown_names(request)
            if unknown:
                meter.count_unknown(unknown)
        deadline = None if request.tmax_ms is None else prediction.started + request.tmax_ms * 0.001
        return predictor.submit(rows, deadline, outcome)

    def answer(self, prediction: Prediction, pctrs: Probabilities) -> tuple[Head, bytes]:
        """pCTRs [rows] -> the head and the body of the answer."""
        request, arm, codec = prediction.request, prediction.arm, prediction.codec
        offers = bids(pctrs, *money_of(request.candidates), self._policy)
        meter = prediction.meter
        if meter is not None:
            no_bids = offers.count(None)
            meter.no_bids += no_bids
            meter.bids += len(offers) - no_bids
        body = codec.encode(answer_of(request, arm.name, arm.predictor.manifest.id, pctrs, offers))
        return prediction.head.ok[codec.name], body

    def refusal(self, prediction: Prediction, error: BaseException) -> tuple[int, Headers, bytes]:
        """Counts the request as refused; the status, the headers and the body that say why."""
        if not isinstance(error, ServiceError):
            logger.error("a request to /predict failed", exc_info=error)
            error = ServiceError("the service failed on this request; it has logged why")
        self._count_refused(prediction, error.code)
        headers = prediction.head.headers if prediction.arm_name else []
        return error.status, error_headers(error, headers), error.body()

    def count_answered(self, prediction: Prediction) -> None:
        """Count a request whose answer is sent."""
        meter = prediction.meter
        if meter is not None:
            meter.under_way -= 1
            meter.count_answered(perf_counter() - prediction.started)

    def count_left(self, prediction: Prediction) -> None:
        """Count a request whose client did not wait for the answer."""
        self._count_refused(prediction, CLIENT_LEFT)

    def _count_refused(self, prediction: Prediction, outcome: str) -> None:
        if prediction.meter is not None:
            prediction.meter.under_way -= 1
        if self._is_metered:
            self._metrics.refuse(prediction.arm_name, outcome)

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
        limit = self.max_body_bytes
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
            f"the body must be {self.max_body_bytes} bytes at most (got {size} or more); split the request"
        )


def error_headers(error: ServiceError, headers: Headers) -> Headers:
    """The headers of the one error answer there is, whatever the route."""
    return [(b"content-type", b"application/json"), *headers, *error.headers()]


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
