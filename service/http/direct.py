"""`POST /predict` from the HTTP parser straight to a `Prediction`, and its answer straight to the socket.

It needs no task, no scope and no router, which cost more than the rest of a small request. To uvicorn's
connection an exchange looks like its own cycle of a request and a response.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from service.errors import Unread
from service.http.heads import DefaultHeaderLines, Headers, PlainHead, PlainHeads, header_lines
from service.http.intake import Parts
from service.http.predict_service import PredictService
from service.http.prediction import CLIENT_LEFT, Prediction
from service.http.uvicorn_internals import STATUS_LINE
from service.scoring.meter import OK

if TYPE_CHECKING:
    import asyncio

_default_lines = DefaultHeaderLines()


class DirectRoute:
    """The application's entrance for plain requests to /predict, and the heads that make them plain."""

    def __init__(self, service: PredictService) -> None:
        self.service = service
        self.heads = PlainHeads(service.max_body_bytes)


class _NullEvent:
    """Takes the place of the event that uvicorn sets to wake a task: there is none."""

    def set(self) -> None:
        """Do nothing."""


class DirectExchange:
    """One request and its answer: a cycle to uvicorn, the outcome of its rows to the batcher.

    uvicorn's connection reads and sets `response_complete`, `keep_alive` and `disconnected`: so a connection
    that shuts down closes after this answer.
    """

    __slots__ = (
        "_body",
        "_default_headers",
        "_has_left",
        "_head",
        "_on_answered",
        "_parts",
        "_prediction",
        "_service",
        "_started",
        "_transport",
        "arrived",
        "bytes_left",
        "disconnected",
        "keep_alive",
        "response_complete",
        "size",
    )

    message_event = _NullEvent()

    def __init__(
        self,
        service: PredictService,
        head: PlainHead,
        transport: asyncio.Transport,
        default_headers: Headers,
        on_answered: Callable[[], None],
        first_byte: float | None = None,
    ) -> None:
        self._service = service
        self._head = head
        self._prediction: Prediction | None = None  # until the body is read
        self._transport = transport
        self._default_headers = default_headers
        self._on_answered = on_answered
        self._body: bytes | None = None
        self._parts: Parts | None = None  # of a body that arrives in several
        self.arrived = service.admission.arrived()
        self._started = self.arrived if first_byte is None else first_byte
        self.size = head.length
        self.keep_alive = head.keep_alive
        self.bytes_left = head.length
        self.response_complete = self.disconnected = self._has_left = False

    @property
    def bytes_read(self) -> int:
        """How much of the body `feed` has taken."""
        return 0 if self._parts is None else self._parts.size

    def feed(self, part: bytes) -> None:
        """Take a part of a body that arrives in several; `bytes_left` are still to come."""
        if self._parts is None:
            self._parts = Parts()
        self._parts.add(part)
        self.bytes_left -= len(part)

    def finish(self) -> None:
        """All parts were fed: go on as `take` does."""
        parts, self._parts = self._parts, None
        self.arrived = self._service.admission.arrived()
        self.take(b"" if parts is None else parts.joined())

    def take(self, body: bytes) -> None:
        """The body is complete: read it, or wait until there is time for that; no stranger waits."""
        service = self._service
        if service.admission.is_open or not service.knows(self._head.headers):
            self._read(body)
        else:
            self._body = body
            service.admission.wait(self)

    def begin(self) -> None:
        """There is time for it now."""
        body, self._body = self._body, None
        self._read(body or b"")

    def begin_unscored(self) -> None:
        """There is time for an answer without the model."""
        body, self._body = self._body, None
        self._read(body or b"", is_late=True)

    def give_up(self) -> None:
        """There will be no time for it."""
        self._body = None

    def refuse(self) -> None:
        """Answer that it was not read."""
        service = self._service
        service.count_unread()
        self._write(Unread.status, service.unread_lines, service.unread_body)

    def _read(self, body: bytes, *, is_late: bool = False) -> None:
        """Queue the rows of the body, or answer why not; too late for the model, without it."""
        prediction = self._prediction = Prediction(self._service, self._started)
        try:
            prediction.read_headers(self._head.headers)
            if is_late:
                prediction.submit_late(body, self)
            else:
                prediction.submit(body, self)
        except Exception as error:
            self.set_exception(error)

    def done(self) -> bool:
        """Whether nobody waits for the result any more."""
        return self.response_complete or self.disconnected

    def set_result(self, pctrs: Any) -> None:
        """The batch has run."""
        prediction = self._prediction
        assert prediction is not None
        try:
            head, body = prediction.answer(pctrs)
        except Exception as error:
            self.set_exception(error)
            return
        self._write(200, head.lines, body)
        prediction.end(OK)

    def set_exception(self, error: BaseException) -> None:
        """The request or its batch has failed."""
        prediction = self._prediction or Prediction(self._service, self._started)
        status, headers, body = prediction.refuse(error)
        self._write(status, header_lines(headers), body)

    def leave(self) -> None:
        """The connection is gone."""
        if not (self.response_complete or self._has_left):
            self.disconnected = self._has_left = True
            self._body = self._parts = None
            (self._prediction or Prediction(self._service, self._started)).end(CLIENT_LEFT)

    def _write(self, status: int, lines: bytes, body: bytes) -> None:
        if self.disconnected:
            return
        default = _default_lines.of(self._default_headers)
        end = b"\r\n\r\n" if self.keep_alive else b"\r\nconnection: close\r\n\r\n"
        self._transport.write(
            b"%b%b%bcontent-length: %d%b%b" % (STATUS_LINE[status], default, lines, len(body), end, body)
        )
        self.response_complete = True
        if not self.keep_alive:
            self._transport.close()
        self._on_answered()
