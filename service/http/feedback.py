"""`POST /feedback`, and the pixels `GET /i/TOKEN` and `GET /c/TOKEN`, as an ASGI application.

It knows no token, and not what is counted. Bids come first: feedback has bytes of its own, far fewer, and it
is refused while they wait.
"""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Awaitable, Callable
from functools import partial

from starlette.types import Receive, Scope, Send

from service.errors import MethodNotAllowed, NotFound, ServiceError
from service.feedback.counting import EventCounter
from service.feedback.events import CLICK, IMPRESSION, Event, EventType, decode_events
from service.feedback.queue import EventQueue
from service.feedback.shared import SharedCounter
from service.http.bodies import ClientLeft, read_body, send_whole
from service.http.heads import FEEDBACK_PATH, Headers
from service.http.intake import Intake
from service.http.predict_service import PredictService
from service.http.prediction import CLIENT_LEFT, unexpected
from service.metrics.families import Metrics
from service.scoring.meter import OK
from service.settings import Settings
from service.wire import codec_for

IMPRESSION_PATH, CLICK_PATH = "/i/", "/c/"
PIXELS: dict[str, EventType] = {IMPRESSION_PATH: IMPRESSION, CLICK_PATH: CLICK}
# What a pixel is worth among the bytes of feedback that a process holds.
PIXEL_BYTES = 1_000
# The part of --max-held-bytes that feedback may hold beside it.
HELD_SHARE = 8
# One transparent pixel.
GIF = b64decode("R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7")
# Whatever stands between would count for its clients what happens once.
_NO_STORE = (b"cache-control", b"no-store")
_LIST = "list"

Answer = tuple[int, Headers, bytes]


def is_feedback(path: str) -> bool:
    """Whether a request to this path is feedback."""
    return path == FEEDBACK_PATH or path.startswith((IMPRESSION_PATH, CLICK_PATH))


class FeedbackEndpoint:
    """Gives a `counter` the events of requests; without one, there are no such routes."""

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        service: PredictService,
        counter: EventCounter | SharedCounter | None,
    ) -> None:
        self._service = service
        admission = service.admission
        self._queue = None
        if counter is not None:
            self._queue = EventQueue(
                counter.count, lambda: admission.is_behind, lambda: setattr(admission, "has_worked", True)
            )
        self._metrics = metrics
        self._max_events = settings.max_feedback_events
        self._intake = Intake(max(settings.max_body_bytes, settings.max_held_bytes // HELD_SHARE))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one HTTP request."""
        path: str = scope["path"]
        event_type = PIXELS.get(path[: len(CLICK_PATH)])
        if event_type is None:
            answer: Callable[[EventQueue], Awaitable[Answer]] = partial(self._count_list, scope, receive)
        else:
            answer = partial(self._count_pixel, scope["method"], event_type, path[len(CLICK_PATH) :])
        outcome = OK
        try:
            if self._queue is None:
                raise NotFound(
                    "the path must be a route of this service; it has no feedback without --feedback-keys"
                )
            status, headers, body = await answer(self._queue)
        except ClientLeft:
            self._count(event_type, CLIENT_LEFT)
            return
        except Exception as error:
            outcome, (status, headers, body) = _refusal(error, path)
        self._count(event_type, outcome)
        await send_whole(send, status, headers, body)

    async def _count_list(self, scope: Scope, receive: Receive, queue: EventQueue) -> Answer:
        """Count the events of a body. Raises ServiceError, ClientLeft."""
        if scope["method"] != "POST":
            raise MethodNotAllowed(
                f"the method must be POST (got {scope['method']!r}); GET /docs describes it", allow="POST"
            )
        headers = dict(scope["headers"])
        self._service.authorize(headers)
        codec = codec_for(headers.get(b"content-type"))
        body = await read_body(headers, receive, self._service.max_body_bytes, self._intake)
        self._intake.take(len(body))
        try:
            counted = await queue.count(partial(decode_events, body, codec, self._max_events), len(body))
        finally:
            self._intake.give_back(len(body))
        return 200, [(b"content-type", codec.media_type)], codec.encode(counted)

    async def _count_pixel(self, method: str, event_type: EventType, token: str, queue: EventQueue) -> Answer:
        """Count the event that a path is; a page gets its pixel in any case. Raises ServiceError."""
        if method not in ("GET", "HEAD"):
            raise MethodNotAllowed(f"the method must be GET or HEAD (got {method!r})", allow="GET, HEAD")
        if method == "GET":
            self._intake.take(PIXEL_BYTES)
            try:
                await queue.count(lambda: [Event(token, event_type)], len(token))
            finally:
                self._intake.give_back(PIXEL_BYTES)
        if event_type == CLICK:
            return 204, [_NO_STORE], b""
        return 200, [(b"content-type", b"image/gif"), _NO_STORE], GIF

    def _count(self, event_type: EventType | None, outcome: str) -> None:
        self._metrics.feedback_requests.labels(event_type or _LIST, outcome).inc()


def _refusal(error: Exception, path: str) -> tuple[str, Answer]:
    """What a request comes to, and its answer.

    The error is no local of who caught it: they would hold each other, and the body, until it is collected.
    """
    refusal = error if isinstance(error, ServiceError) else unexpected(error, path)
    headers = [(b"content-type", b"application/json"), *refusal.headers()]
    return refusal.outcome, (refusal.status, headers, refusal.body())
