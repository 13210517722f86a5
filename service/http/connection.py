"""One HTTP connection: uvicorn's, with limits on what a client sends and how slowly, and a direct route.

It knows no route of the application but the direct one, which takes plain requests past ASGI.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, cast

import httptools

from service.errors import HeadTooLarge, MalformedRequest, ServiceError
from service.http.direct import PATH, DirectExchange, DirectRoute
from service.http.heads import header_lines
from service.http.uvicorn_internals import (
    STATUS_LINE,
    ASGI3Application,
    HttpToolsProtocol,
    RequestResponseCycle,
)

logger = logging.getLogger("bidlight")

MAX_HEAD_BYTES = 65_536
LINGER_SECONDS = 1.0
# How long before uvicorn's drain ends a connection is cut: uvicorn would answer what still runs with a 500.
ABORT_SECONDS = 0.3
# Headers of an upgrade offer, which are not passed on with the request.
_OFFER_HEADERS = (b"connection", b"upgrade", b"http2-settings")


class HttpConnection(HttpToolsProtocol):
    """uvicorn's protocol, with these additions:

    - The head of a request may have at most MAX_HEAD_BYTES beyond the data in which it begins (431). uvicorn
      would keep any number of headers.
    - A request must be complete within the keep-alive time after its first byte, and a client that does not
      read its answers must read on within that time. Otherwise the connection closes.
    - An upgrade offer is ignored (RFC 9110, section 7.8). Java's HttpClient offers HTTP/2 in the first
      request of every connection, and httptools would take the body that follows for HTTP/2.
    - On shutdown, an idle connection stays open for LINGER_SECONDS: a request may be on its way, and a socket
      that closes with unread bytes is reset.
    - When a client leaves, the request that is being answered learns of it, even if others are pipelined.
    - A plain `POST /predict` takes the application's direct route (service.http.direct), if it has one.
      All other requests take uvicorn's way.
    - Bytes that are not HTTP are refused with the same error body as everything else. They are not logged,
      or clients could fill the disk.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._in_head = self._in_request = self._has_begun = self._offered = self._is_last = False
        self._head_bytes = 0
        self._answering: RequestResponseCycle | DirectExchange | None = None
        self._direct: DirectExchange | None = None  # the request being read, if it takes the direct route
        self._plain_headers: dict[bytes, bytes] | None = None  # of a direct request in the current data
        self._route: DirectRoute | None = getattr(self.app, "direct_route", None)
        self._reading_timer: asyncio.TimerHandle | None = None
        self._writing_timer: asyncio.TimerHandle | None = None
        self._idle_timer: asyncio.TimerHandle | None = None
        self._idle_since = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has connected: start the timer of its first request."""
        super().connection_made(transport)
        self._start_reading_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is closed."""
        self._stop_reading_timer()
        self._stop_writing_timer()
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        super().connection_lost(exc)
        if self._answering is not None and not self._answering.response_complete:
            if isinstance(self._answering, DirectExchange):
                self._answering.leave()
                return
            self._answering.disconnected = True
            self._answering.message_event.set()

    def data_received(self, data: bytes) -> None:
        """Take bytes: a part of a request, a whole one, or several."""
        is_at_boundary = not self._in_request
        if is_at_boundary and self._route is not None and self._may_answer_next():
            known = self._route.known_heads.find(data)
            if known is not None:
                self._answer_known(self._route, *known)
                return
        self._has_begun, self._plain_headers = False, None
        rest = data
        while rest:
            try:
                self.parser.feed_data(rest)
                rest = b""
            except httptools.HttpParserUpgrade as offer:
                rest = self._drop_offer(rest[offer.args[0] :])
            except httptools.HttpParserError as error:
                self._refuse(MalformedRequest(f"the request must be HTTP/1.1 ({error})"))
                return
        if is_at_boundary and self._plain_headers is not None and self._route is not None:
            self._route.known_heads.remember(data, self._plain_headers)
        if self._in_request:
            if self._reading_timer is None:
                self._start_reading_timer()
            # The data in which it begins is not counted: other requests may make up most of it.
            if self._in_head and not self._has_begun:
                self._head_bytes += len(data)
                if self._head_bytes > MAX_HEAD_BYTES:
                    self._refuse(
                        HeadTooLarge(
                            f"the headers must be {MAX_HEAD_BYTES} bytes at most; send fewer of them"
                        )
                    )

    def on_message_begin(self) -> None:
        """The parser has read the first byte of a request."""
        # Not in data_received: an empty line begins no request, and an idle connection must keep its timer.
        self._unset_keepalive_if_required()
        # uvicorn's own method is called later: only a request through ASGI needs a scope.
        self.url, self.headers, self.expect_100_continue = b"", [], False
        self._in_request = self._in_head = self._has_begun = True
        self._head_bytes = 0

    def on_headers_complete(self) -> None:
        """The parser has read the end of the headers."""
        self._in_head = False
        self._offered = self.parser.should_upgrade()
        if self._offered:
            return
        if self._route is not None and self._is_plain_post():
            named = dict(self.headers)
            if self._route.accepts(named):
                # Many clients send "Connection: keep-alive", which changes nothing; some send "close".
                keep_alive = self.parser.should_keep_alive()
                self._direct = self._begin_direct(self._route, named, keep_alive)
                self._plain_headers = named if keep_alive else None
                return
        url, headers, expects = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.expect_100_continue = url, expects
        self.headers.extend(headers)
        super().on_headers_complete()
        if self._is_last:
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        """The parser has read a part of the body."""
        if self._direct is not None:
            self._direct.feed(body)
        elif not self._offered:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """The parser has read the end of the body."""
        if self._offered:
            return
        self._in_request = False
        self._stop_reading_timer()
        if self._direct is None:
            super().on_message_complete()
            return
        direct, self._direct = self._direct, None
        direct.start()

    def _is_plain_post(self) -> bool:
        """Whether the request is a POST /predict that may be answered next."""
        return (
            self.url == PATH
            and self.parser.get_method() == b"POST"
            and self._may_answer_next()
            and self.parser.get_http_version() == "1.1"
        )

    def _may_answer_next(self) -> bool:
        """Whether every earlier request is answered, and an answer can be written."""
        return (self.cycle is None or self.cycle.response_complete) and not self.flow.write_paused

    def _begin_direct(
        self, route: DirectRoute, headers: dict[bytes, bytes], keep_alive: bool
    ) -> DirectExchange:
        """Put an exchange in the place of uvicorn's cycle, as for a request that goes through ASGI."""
        direct = DirectExchange(
            route.service,
            headers,
            self.transport,
            self.server_state.default_headers,
            self.on_response_complete,
        )
        direct.keep_alive = keep_alive and not self._is_last
        self._answering = direct
        self.cycle = cast("RequestResponseCycle", direct)
        return direct

    def _answer_known(self, route: DirectRoute, headers: dict[bytes, bytes], body: bytes) -> None:
        """Answer a whole request whose head the parser has read before, on this connection or another."""
        self._unset_keepalive_if_required()
        self._stop_reading_timer()
        direct = self._begin_direct(route, headers, True)
        direct.feed(body)
        direct.start()

    def on_response_complete(self) -> None:
        """An answer is written: the next request must come within the keep-alive time."""
        if self.pipeline or not isinstance(self.cycle, DirectExchange):
            super().on_response_complete()
            return
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        # uvicorn starts a timer after every answer and cancels it at every request, which costs more than one
        # lasting timer that compares times when it fires.
        self._idle_since = self.loop.time()
        if self._idle_timer is None:
            self._idle_timer = self.loop.call_later(self.timeout_keep_alive, self._close_if_idle)

    def _close_if_idle(self) -> None:
        self._idle_timer = None
        is_busy = self._in_request or self.cycle is None or not self.cycle.response_complete
        if is_busy or self.timeout_keep_alive_task is not None:
            return  # the next answer starts this timer again, or uvicorn's own timer runs
        left = self._idle_since + self.timeout_keep_alive - self.loop.time()
        if left > 0:
            self._idle_timer = self.loop.call_later(left, self._close_if_idle)
        else:
            self.timeout_keep_alive_handler()

    def pause_writing(self) -> None:
        """The client does not read its answers: start the timer until it must."""
        super().pause_writing()
        self._writing_timer = self.loop.call_later(self.timeout_keep_alive, self.transport.abort)

    def resume_writing(self) -> None:
        """The client reads again."""
        self._stop_writing_timer()
        super().resume_writing()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        """Answer a request, and remember which one: `self.cycle` is the one that was read last."""
        self._answering = cycle
        super()._start_asgi_task(cycle, app)

    def shutdown(self) -> None:
        """Answer the request under way, or one that comes within LINGER_SECONDS, and close.

        A client that has not sent all of it, or not read the answer, when the drain ends is cut off.
        """
        if self.config.timeout_graceful_shutdown is not None:
            seconds = max(0.0, self.config.timeout_graceful_shutdown - ABORT_SECONDS)
            self.loop.call_later(seconds, self.transport.abort)
        if self.cycle is None or self.cycle.response_complete:
            self._is_last = True
            self.loop.call_later(LINGER_SECONDS, super().shutdown)
        else:
            super().shutdown()

    def _drop_offer(self, rest: bytes) -> bytes:
        """The request without its upgrade offer, then the `rest` of the data; empty if it is refused."""
        method = self.parser.get_method()
        if method == b"CONNECT":
            self._refuse(MalformedRequest("the request must be for this service, which is no proxy"))
            return b""
        line = b"%b %b HTTP/%b\r\n" % (method, self.url, self.parser.get_http_version().encode())
        headers = [header for header in self.headers if header[0] not in _OFFER_HEADERS]
        if not self.parser.should_keep_alive():
            headers.append((b"connection", b"close"))
        self.parser = httptools.HttpRequestParser(self)
        return b"%b%b\r\n%b" % (line, header_lines(headers), rest)

    def _refuse(self, error: ServiceError) -> None:
        """Answer with an error and close; if an earlier request is unanswered, close after its answer."""
        logger.debug("a connection from %s was closed: %s", self.client, error)
        if self.cycle is not None and not (self.cycle.response_complete or self.cycle.more_body):
            self.cycle.keep_alive = False
            self.flow.pause_reading()
            return
        body = error.body()
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        lines = header_lines([*headers, (b"connection", b"close")])
        self.transport.write(b"%b%b\r\n%b" % (STATUS_LINE[error.status], lines, body))
        self.transport.close()

    def _start_reading_timer(self) -> None:
        self._reading_timer = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def _stop_reading_timer(self) -> None:
        if self._reading_timer is not None:
            self._reading_timer.cancel()
            self._reading_timer = None

    def _stop_writing_timer(self) -> None:
        if self._writing_timer is not None:
            self._writing_timer.cancel()
            self._writing_timer = None
