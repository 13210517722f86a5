"""`POST /predict` from the HTTP parser straight to the batcher, and its answer straight to the socket.

No task, no scope, no router: what ASGI costs is the largest part of a small request. It knows uvicorn's
connection as what asks whether an answer is out, and what to do next; every step between bytes and answer is
the endpoint's, the same as behind ASGI.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from service.http.answer_head import DefaultLines, Headers, lines_of
from service.http.endpoint import PredictEndpoint, Prediction

if TYPE_CHECKING:
    import asyncio

PATH = b"/predict"
# Whoever sends one of these wants what only the way through ASGI does.
_LEFT_TO_ASGI = frozenset((b"transfer-encoding", b"content-encoding", b"expect", b"upgrade"))
_default_lines = DefaultLines()


class _Unheard:
    """Stands where uvicorn wakes a waiting task: here nobody waits."""

    def set(self) -> None:
        """Nothing."""


class DirectExchange:
    """One request and its answer: to uvicorn the cycle under way, to the batcher whom to tell of a result.

    uvicorn's connection reads and sets `response_complete`, `keep_alive`, `disconnected` and `more_body`: so
    requests that are sent behind this one wait for its answer, and a connection that stops closes after it.
    """

    message_event = _Unheard()
    keep_alive = True

    def __init__(
        self,
        endpoint: PredictEndpoint,
        headers: dict[bytes, bytes],
        transport: asyncio.Transport,
        default_headers: Headers,
        on_answered: Callable[[], None],
    ) -> None:
        self._endpoint = endpoint
        self._headers = headers
        self._transport = transport
        self._default_headers = default_headers
        self._on_answered = on_answered
        self._chunks: list[bytes] = []
        self._prediction = Prediction(perf_counter())
        self.response_complete = self.disconnected = self._has_left = False
        self.more_body = True

    def feed(self, chunk: bytes) -> None:
        """A part of the body has come; there are no more than the Content-Length says."""
        self._chunks.append(chunk)

    def start(self) -> None:
        """The body is whole: have its rows queued, or answer why not."""
        self.more_body = False
        chunks = self._chunks
        body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        try:
            self._endpoint.accept(self._prediction, self._headers, body, outcome=self)
        except Exception as error:
            self.set_exception(error)

    def done(self) -> bool:
        """Whether nobody waits for the result any more."""
        return self.response_complete or self.disconnected

    def set_result(self, pctrs: Any) -> None:
        """The batch has run."""
        try:
            head, body = self._endpoint.answer(self._prediction, pctrs)
        except Exception as error:
            self.set_exception(error)
            return
        self._write(200, head.lines, body)
        self._endpoint.count_answered(self._prediction)

    def set_exception(self, error: BaseException) -> None:
        """The request, or the batch, has failed."""
        status, headers, body = self._endpoint.refusal(self._prediction, error)
        self._write(status, lines_of(headers), body)

    def leave(self) -> None:
        """The connection is gone."""
        if not (self.response_complete or self._has_left):
            self.disconnected = self._has_left = True
            self._endpoint.count_left(self._prediction)

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


def takes(headers: dict[bytes, bytes], max_body_bytes: int) -> bool:
    """Whether a request with these headers is plain enough: a declared, short body and no wish besides."""
    length = headers.get(b"content-length", b"")
    if not _LEFT_TO_ASGI.isdisjoint(headers):
        return False
    return length.isdigit() and len(length) < 19 and int(length) <= max_body_bytes
