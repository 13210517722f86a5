"""One HTTP connection: uvicorn's, with limits on what a client sends and how slowly, and a direct route.

It knows no route of the application but the direct one, which takes plain requests past ASGI.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, cast

import httptools

from service.errors import HeadTooLarge, MalformedRequest, ServiceError
from service.http.direct import DirectExchange, DirectRoute
from service.http.endpoint import FIRST_BYTE
from service.http.framing import RequestFrame
from service.http.heads import (
    BODY_PATHS,
    MAX_HEAD_BYTES,
    MAX_HEADERS,
    PLAIN_START,
    PlainHead,
    head_without_offer,
    refusal_lines,
)
from service.http.intake import Arrival
from service.http.predict_service import PredictService
from service.http.timers import ConnectionTimers
from service.http.uvicorn_internals import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

logger = logging.getLogger("bidlight")

LINGER_SECONDS = 1.0
# How long before uvicorn's drain ends a connection is cut: uvicorn would answer what still runs with a 500.
ABORT_SECONDS = 0.3
# So many bytes of empty lines before a request are no mistake of a client.
MAX_EMPTY_BYTES = 64


class HttpConnection(HttpToolsProtocol):
    """uvicorn's protocol, with these additions:

    - One request at a time: what a client sends behind it waits, and reading pauses, until the answer is
      written and the client reads its answers. After an answer nothing of the request is kept.
    - What waits and what has arrived in part is accounted for over all connections (service.http.intake).
    - A head, or what frames the chunks of a body, has at most MAX_HEAD_BYTES (431), and MAX_HEADERS headers.
    - A request must be complete within the keep-alive time after its first byte, and a client that does not
      read its answers must read on within that time. Otherwise the connection closes.
    - An upgrade offer is ignored (RFC 9110, section 7.8). Java's HttpClient offers HTTP/2 in the first
      request of every connection, and httptools would take the body that follows for HTTP/2.
    - On shutdown, an idle connection stays open for LINGER_SECONDS: a request may be on its way, and a socket
      that closes with unread bytes is reset.
    - A plain `POST /predict` takes the application's direct route (service.http.direct), if it has one. It
      never reaches uvicorn's parser; all other requests do.
    - Bytes that are not HTTP are refused with the same error body as everything else. They are not logged,
      or clients could fill the disk.
    """

    # Instances share one table of attribute names, but for thirty at most, and uvicorn's are nearly as many.
    # With ours each connection would have a table of its own, which is seldom in a cache.
    __slots__ = (
        "_arrival",
        "_direct",
        "_first_byte",
        "_frame",
        "_has_answered",
        "_has_dropped",
        "_is_advancing",
        "_is_last",
        "_is_paused",
        "_offered",
        "_route",
        "_service",
        "_timers",
        "_waiting",
    )

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.url, self.headers = b"", []
        self._route: DirectRoute | None = getattr(self.app, "direct_route", None)
        self._service: PredictService = self.app.predict_service
        self._arrival: Arrival | None = Arrival(self._service.intake, self._yield_room)
        self._direct: DirectExchange | None = None  # the request being read, if it takes the direct route
        self._frame: RequestFrame | None = None  # of the request being read, if it goes through the parser
        self._waiting = b""  # bytes that nothing has been done with yet
        self._first_byte: float | None = None  # when a head began that is not whole yet, a perf_counter()
        self._is_advancing = self._has_answered = self._is_paused = self._has_dropped = False
        self._offered = self._is_last = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has connected: start the timer of its first request."""
        super().connection_made(transport)
        self._timers = ConnectionTimers(
            self.loop,
            self.timeout_keep_alive,
            self.timeout_keep_alive_handler,
            transport.abort,
            lambda: self.is_idle,
        )
        self._timers.start_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is closed."""
        self._timers.stop()
        cycle, self._direct, self._waiting = self.cycle, None, b""
        self._account()
        self._arrival = None
        super().connection_lost(exc)
        if isinstance(cycle, DirectExchange):
            cycle.leave()

    def data_received(self, data: bytes) -> None:
        """Take bytes: a part of a request, a whole one, or several."""
        # Most often a whole plain request, and nothing else.
        if self._route is not None and self._frame is None and not self._waiting and self._is_free():
            head = self._route.heads.of(data)
            if head is not None and len(data) - head.size == head.length:
                self._timers.stop_reading()
                self._begin_direct(self._route, head, is_last=self._is_last).take(data[head.size :])
                return
        self._advance(self._waiting + data if self._waiting else data)

    @property
    def is_idle(self) -> bool:
        """Whether every request is answered, and none has begun."""
        return self.cycle is None and self._frame is None and not self._waiting

    @property
    def waits_since(self) -> float | None:
        """Since when it waits for a request, or for the rest of one, in the loop's time; None otherwise."""
        if self.is_idle:
            return self._timers.idle_since
        is_arriving = self._direct is not None or self._frame is not None or self.cycle is None
        return self._timers.reading_since if is_arriving else None

    def _is_free(self) -> bool:
        """Whether every earlier request is answered, and an answer can be written."""
        return self.cycle is None and not self.flow.write_paused

    def _advance(self, data: bytes) -> None:
        """Go through `data` as far as possible, but no further than one answer; what is left waits."""
        at, self._is_advancing, self._has_answered = 0, True, False
        while at < len(data) and not (self._has_answered or self.transport.is_closing()):
            if self._direct is not None:
                at = self._read_direct(self._direct, data, at)
            elif self._frame is not None:
                end = self._frame.end_of_part(data, at)
                offer = self._feed_parser(data[at:end])
                data, at = (offer + data[end:], 0) if offer else (data, end)
            elif data[at] in b"\r\n":
                at = self._skip_empty_lines(data, at)
            elif not self._is_free():
                break
            elif self._route is not None and data.startswith(PLAIN_START, at):
                rest = data[at:]
                head = self._route.heads.of(rest)
                if head is not None:
                    is_last = self._is_last and len(rest) <= head.size + head.length
                    self._direct = self._begin_direct(self._route, head, is_last)
                    at = self._read_direct(self._direct, data, at + head.size)
                elif not self._has_head(rest):
                    self._note_first_byte()
                    break
                else:
                    self._begin_frame()
            else:
                self._begin_frame()
        self._is_advancing = False
        self._waiting = data[at:] if not self.transport.is_closing() else b""
        self._settle()

    def _skip_empty_lines(self, data: bytes, at: int) -> int:
        """The place behind some empty lines, which mean nothing before a request."""
        lines = data[at : at + MAX_EMPTY_BYTES]
        if not lines.strip(b"\r\n") and len(lines) == MAX_EMPTY_BYTES:
            self._refuse(MalformedRequest("the request must begin with its method (got empty lines)"))
        return at + len(lines) - len(lines.lstrip(b"\r\n"))

    def _has_head(self, rest: bytes) -> bool:
        """Whether the head is whole, or too long to wait for its end."""
        return b"\r\n\r\n" in rest or len(rest) > MAX_HEAD_BYTES

    def _settle(self) -> None:
        """After all that could be done with the bytes so far: pause, start and stop timers, account."""
        is_within = self._direct is not None or self._frame is not None
        is_kept = bool(self._waiting) and (self._has_answered or not self._is_free())
        if is_kept and not is_within:
            # uvicorn reads on when its cycle asks for more of a body; here that would never end.
            self._is_paused, self.flow.read_paused = True, False
            self.transport.pause_reading()
            if self._has_answered:  # other connections come first
                self.loop.call_soon(self._resume)
        if is_within or (self._waiting and not is_kept):
            self._timers.start_reading()
        elif self.cycle is not None or self._timers.has_answered:  # else only empty lines have come
            self._timers.stop_reading()
        self._account()

    def _account(self) -> None:
        """Tell how many bytes are kept. If others need the room, `_yield_room` is called."""
        if self._arrival is not None:
            arrived = 0 if self._direct is None else self._direct.bytes_read
            unread = self.transport.get_write_buffer_size() if self.flow.write_paused else 0
            self._arrival.hold(len(self._waiting) + arrived + unread)

    def _yield_room(self) -> None:
        """Keep nothing: cut off who does not read, refuse what arrives, or close after the answer."""
        self._waiting = b""
        if self.flow.write_paused:
            self.transport.abort()
        elif self._direct is not None:
            direct, self._direct = self._direct, None
            direct.keep_alive = False
            direct.set_exception(self._service.intake.refusal())
        elif self.cycle is not None:
            self._has_dropped, self.cycle.keep_alive = True, False
        else:
            refusal = self._service.intake.refusal()
            self._service.count_refusal(refusal)
            self._service.count_unrouted(refusal.code)
            self._refuse(refusal)

    def _resume(self) -> None:
        """Go on with what waits, if the way is free now."""
        if self.transport.is_closing() or not self._is_free() or self._is_advancing:
            return
        if self._is_paused:
            self._is_paused = False
            self.transport.resume_reading()
        waiting, self._waiting = self._waiting, b""
        self._advance(waiting)

    def _note_first_byte(self) -> None:
        """A request begins with the bytes received last, unless it has begun already."""
        if self._first_byte is None:
            self._first_byte = self._service.admission.arrived()

    def _begin_frame(self) -> None:
        """Give the next request to the parser."""
        self._note_first_byte()
        self._frame = RequestFrame()

    def _begin_direct(self, route: DirectRoute, head: PlainHead, is_last: bool) -> DirectExchange:
        """Put an exchange in the place of uvicorn's cycle, as for a request that goes through ASGI."""
        direct = DirectExchange(
            route.service,
            head,
            self.transport,
            self.server_state.default_headers,
            self.on_response_complete,
            self._first_byte,
        )
        self._first_byte = None
        if is_last:
            direct.keep_alive = False
        self.cycle = cast("RequestResponseCycle", direct)
        return direct

    def _read_direct(self, direct: DirectExchange, data: bytes, at: int) -> int:
        """Give the body of a direct request its part of `data`; returns the end of that part."""
        end = min(len(data), at + direct.bytes_left)
        direct.feed(data[at:end])
        if not direct.bytes_left:
            self._direct = None
            self._account()
            direct.finish()
        return end

    def _feed_parser(self, part: bytes) -> bytes:
        """Give uvicorn's parser bytes of one request. Returns its head again, if without an upgrade offer."""
        frame = self._frame
        assert frame is not None
        try:
            self.parser.feed_data(part)
        except httptools.HttpParserUpgrade:
            return self._without_offer()
        except httptools.HttpParserError as error:
            self._refuse(MalformedRequest(f"the request must be HTTP/1.1 ({error})"))
            return b""
        if frame.is_too_long or len(self.headers) > MAX_HEADERS:
            self._refuse(
                HeadTooLarge(
                    f"the headers must be {MAX_HEAD_BYTES} bytes and {MAX_HEADERS} lines at most, and the "
                    "sizes of chunks not much longer than the body; send fewer"
                )
            )
        return b""

    def on_message_begin(self) -> None:
        """The parser has read the first byte of a request."""
        # uvicorn's own method is called later, when the headers say that the request is no upgrade offer.
        self.url, self.headers, self.expect_100_continue = b"", [], False

    def on_headers_complete(self) -> None:
        """The parser has read the end of the headers."""
        self._offered = self.parser.should_upgrade()
        if self._offered or self._frame is None:
            return
        self._frame.end_head(self.headers)
        url, headers, expects = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.expect_100_continue = url, expects
        self.headers.extend(headers)
        super().on_headers_complete()
        cast("dict[str, Any]", self.scope)[FIRST_BYTE], self._first_byte = self._first_byte, None
        if self._is_last:
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        """The parser has read a part of the body, which few routes read."""
        if self._frame is not None:
            self._frame.count_body(len(body))
        if self.cycle is not None and self.scope["path"] in BODY_PATHS:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """The parser has read the end of the body."""
        if self._offered:
            return
        self._frame = None
        if self.cycle is None:
            self._forget()
        else:
            super().on_message_complete()

    def on_response_complete(self) -> None:
        """An answer is written: the next request must come within the keep-alive time."""
        self.cycle, self._has_answered = None, True  # type: ignore[assignment]
        self.server_state.total_requests += 1
        if self._has_dropped:
            self.transport.close()
        if self.transport.is_closing():
            return
        if self.flow.read_paused:  # by a body that nobody has read
            self.flow.resume_reading()
        if self.scope is not None and self._frame is None:
            self._forget()
        self._timers.start_idle()
        if self._waiting and not self._is_advancing:
            # Not at once: this may be called for the first of many answers of a batch.
            self.loop.call_soon(self._resume)

    def _forget(self) -> None:
        """Keep nothing of the last request that went through ASGI."""
        self.url, self.headers, self.scope = b"", [], None  # type: ignore[assignment]

    def pause_writing(self) -> None:
        """The client does not read its answers, which are kept until it does, or until it must have."""
        super().pause_writing()
        self._timers.start_writing()
        self._account()

    def resume_writing(self) -> None:
        """The client reads again."""
        self._timers.stop_writing()
        super().resume_writing()
        self._account()
        if self._waiting:
            self.loop.call_soon(self._resume)

    def shutdown(self) -> None:
        """Answer the requests under way, or one that comes within LINGER_SECONDS, and close.

        A client that has not sent all of it, or not read the answer, when the drain ends is cut off.
        """
        if self.config.timeout_graceful_shutdown is not None:
            seconds = max(0.0, self.config.timeout_graceful_shutdown - ABORT_SECONDS)
            self.loop.call_later(seconds, self.transport.abort)
        self._is_last = True
        if self.cycle is None:
            self.loop.call_later(LINGER_SECONDS, super().shutdown)
        elif not self._waiting:
            self.cycle.keep_alive = False

    def _without_offer(self) -> bytes:
        """The head without its upgrade offer; empty if the request is refused."""
        method = self.parser.get_method()
        if method == b"CONNECT":
            self._refuse(MalformedRequest("the request must be for this service, which is no proxy"))
            return b""
        version, keep_alive = self.parser.get_http_version(), self.parser.should_keep_alive()
        self.parser, self._frame = httptools.HttpRequestParser(self), None
        return head_without_offer(method, self.url, version, self.headers, keep_alive=keep_alive)

    def _refuse(self, error: ServiceError) -> None:
        """Answer with an error and close. No earlier request is unanswered, or this one would still wait."""
        logger.debug("a connection from %s was closed: %s", self.client, error)
        self.transport.write(STATUS_LINE[error.status] + refusal_lines(error))
        self.transport.close()
