"""One HTTP connection: uvicorn's, with bounds on what a client sends and how slowly, and a short way.

It knows of routes only that an application may have an endpoint to which plain requests go directly.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, cast

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from service.errors import HeadTooLarge, MalformedRequest, ServiceError
from service.http.direct import PATH, DirectExchange, takes

if TYPE_CHECKING:
    from uvicorn._types import ASGI3Application

    from service.http.endpoint import PredictEndpoint

logger = logging.getLogger("bidlight")

MAX_HEAD_BYTES = 65_536
LINGER_SECONDS = 1.0
# So long before uvicorn would cancel what still runs, and answer it with a 500.
ABORT_SECONDS = 0.3
# What belongs to an offer to change the protocol, and is not passed on with the request.
_OFFER = (b"connection", b"upgrade", b"http2-settings")


class Connection(HttpToolsProtocol):
    """uvicorn's protocol, and in addition:

    - of the head of a request, at most MAX_HEAD_BYTES follow the data that it begins in (431; uvicorn would
      keep any number of headers);
    - a request is whole within the keep-alive time after its first byte, and a client that does not read its
      answers reads on within that time, or the connection is closed;
    - an offer to change the protocol is ignored (RFC 9110, section 7.8). Java's HttpClient offers HTTP/2 with
      the first request of every connection, and httptools takes the body that follows for HTTP/2;
    - when the service stops, an idle connection has a moment left (LINGER_SECONDS): a request may be on its
      way, and a socket that is closed with unread bytes is reset;
    - of several requests sent at once, also the one that is being answered learns that its client has left;
    - a plain `POST /predict` goes straight to the endpoint (service.http.direct), where the application
      has one for it. Whatever else a request wants or does is uvicorn's;
    - what is not HTTP is refused in the shape of all errors, and not logged: clients could fill the disk.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._in_head = self._in_request = self._has_begun = self._offered = self._is_last = False
        self._head_bytes = 0
        self._answering: RequestResponseCycle | DirectExchange | None = None
        self._direct: DirectExchange | None = None  # the request being read, where it goes that way
        self._plain_headers: dict[bytes, bytes] | None = None  # those of one in the data of now
        self._endpoint: PredictEndpoint | None = getattr(self.app, "direct_endpoint", None)
        self._reading_timer: asyncio.TimerHandle | None = None
        self._writing_timer: asyncio.TimerHandle | None = None
        self._idle_timer: asyncio.TimerHandle | None = None
        self._idle_since = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has come; it has so long for its first request."""
        super().connection_made(transport)
        self._start_reading_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has gone."""
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
        """Bytes have come: the rest of a request, several of them, or a part."""
        is_between = not self._in_request
        if is_between and self._endpoint is not None and self._may_answer_next():
            known = self._endpoint.known_heads.find(data)
            if known is not None:
                self._answer_known(self._endpoint, *known)
                return
        self._has_begun, self._plain_headers = False, None
        rest = data
        while rest:
            try:
                self.parser.feed_data(rest)
                rest = b""
            except httptools.HttpParserUpgrade as offer:
                rest = self._without_offer(rest[offer.args[0] :])
            except httptools.HttpParserError as error:
                self._refuse(MalformedRequest(f"the request must be HTTP/1.1 ({error})"))
                return
        if is_between and self._plain_headers is not None and self._endpoint is not None:
            self._endpoint.known_heads.remember(data, self._plain_headers)
        if self._in_request:
            if self._reading_timer is None:
                self._start_reading_timer()
            # Of the data in which it begins, others before it may have the most: that is not counted.
            if self._in_head and not self._has_begun:
                self._head_bytes += len(data)
                if self._head_bytes > MAX_HEAD_BYTES:
                    self._refuse(
                        HeadTooLarge(
                            f"the headers must be {MAX_HEAD_BYTES} bytes at most; send fewer of them"
                        )
                    )

    def on_message_begin(self) -> None:
        """The parser has met the first byte of a request."""
        # Not when data comes: an empty line begins no request, and would leave an idle connection no timer.
        self._unset_keepalive_if_required()
        # What uvicorn does here is put off: only the way through ASGI needs a scope.
        self.url, self.headers, self.expect_100_continue = b"", [], False
        self._in_request = self._in_head = self._has_begun = True
        self._head_bytes = 0

    def on_headers_complete(self) -> None:
        """The parser has met the end of the headers."""
        self._in_head = False
        self._offered = self.parser.should_upgrade()
        if self._offered:
            return
        if self._endpoint is not None and self._is_plain_post():
            named = dict(self.headers)
            if takes(named, self._endpoint.max_body_bytes):
                # Many clients say "Connection: keep-alive", which means nothing here; some say "close".
                keep_alive = self.parser.should_keep_alive()
                self._direct = self._begin_direct(self._endpoint, named, keep_alive)
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
        """The parser has met a part of the body."""
        if self._direct is not None:
            self._direct.feed(body)
        elif not self._offered:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """The parser has met the end of the body."""
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
        """Whether it is a plain POST /predict, and may be answered next."""
        return (
            self.url == PATH
            and self.parser.get_method() == b"POST"
            and self._may_answer_next()
            and self.parser.get_http_version() == "1.1"
        )

    def _may_answer_next(self) -> bool:
        """Whether no request is before the one that comes, and its answer can be sent."""
        return (self.cycle is None or self.cycle.response_complete) and not self.flow.write_paused

    def _begin_direct(
        self, endpoint: PredictEndpoint, headers: dict[bytes, bytes], keep_alive: bool
    ) -> DirectExchange:
        """From here on the request is `self.cycle` to uvicorn, as one that goes through ASGI would be."""
        direct = DirectExchange(
            endpoint,
            headers,
            self.transport,
            self.server_state.default_headers,
            self.on_response_complete,
        )
        direct.keep_alive = keep_alive and not self._is_last
        self._answering = direct
        self.cycle = cast("RequestResponseCycle", direct)
        return direct

    def _answer_known(self, endpoint: PredictEndpoint, headers: dict[bytes, bytes], body: bytes) -> None:
        """A whole request whose head the parser has read before, on this connection or another."""
        self._unset_keepalive_if_required()
        self._stop_reading_timer()
        direct = self._begin_direct(endpoint, headers, True)
        direct.feed(body)
        direct.start()

    def on_response_complete(self) -> None:
        """An answer is out; the next request has the keep-alive time to come."""
        if self.pipeline or not isinstance(self.cycle, DirectExchange):
            super().on_response_complete()
            return
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        # uvicorn makes a timer an answer and cancels it a request: 2 us. One that looks at a clock will do.
        self._idle_since = self.loop.time()
        if self._idle_timer is None:
            self._idle_timer = self.loop.call_later(self.timeout_keep_alive, self._close_if_idle)

    def _close_if_idle(self) -> None:
        self._idle_timer = None
        is_busy = self._in_request or self.cycle is None or not self.cycle.response_complete
        if is_busy or self.timeout_keep_alive_task is not None:
            return  # the next answer, or uvicorn's own timer, sees to it
        left = self._idle_since + self.timeout_keep_alive - self.loop.time()
        if left > 0:
            self._idle_timer = self.loop.call_later(left, self._close_if_idle)
        else:
            self.timeout_keep_alive_handler()

    def pause_writing(self) -> None:
        """The client does not read its answers; it has so long to begin again."""
        super().pause_writing()
        self._writing_timer = self.loop.call_later(self.timeout_keep_alive, self.transport.abort)

    def resume_writing(self) -> None:
        """The client reads again."""
        self._stop_writing_timer()
        super().resume_writing()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        """Have a request answered, and remember which: `self.cycle` is the last one that came."""
        self._answering = cycle
        super()._start_asgi_task(cycle, app)

    def shutdown(self) -> None:
        """The service stops: answer the request under way, or one that comes in a moment, and close.

        Whoever has not sent all of it, or not read the answer, when the drain is over is cut off.
        """
        if self.config.timeout_graceful_shutdown is not None:
            seconds = max(0.0, self.config.timeout_graceful_shutdown - ABORT_SECONDS)
            self.loop.call_later(seconds, self.transport.abort)
        if self.cycle is None or self.cycle.response_complete:
            self._is_last = True
            self.loop.call_later(LINGER_SECONDS, super().shutdown)
        else:
            super().shutdown()

    def _without_offer(self, rest: bytes) -> bytes:
        """The request that made an offer, without it, and the `rest` of the data; empty if it is refused."""
        method = self.parser.get_method()
        if method == b"CONNECT":
            self._refuse(MalformedRequest("the request must be for this service, which is no proxy"))
            return b""
        head = [b"%b %b HTTP/%b\r\n" % (method, self.url, self.parser.get_http_version().encode())]
        head += [b"%b: %b\r\n" % header for header in self.headers if header[0] not in _OFFER]
        if not self.parser.should_keep_alive():
            head.append(b"connection: close\r\n")
        self.parser = httptools.HttpRequestParser(self)
        return b"".join([*head, b"\r\n", rest])

    def _refuse(self, error: ServiceError) -> None:
        """Answer and close; if a request before this one is not answered yet, close after its answer."""
        logger.debug("a connection from %s was closed: %s", self.client, error)
        if self.cycle is not None and not (self.cycle.response_complete or self.cycle.more_body):
            self.cycle.keep_alive = False
            self.flow.pause_reading()
            return
        body = error.body()
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        lines = [b"%b: %b\r\n" % header for header in [*headers, (b"connection", b"close")]]
        self.transport.write(b"".join([STATUS_LINE[error.status], *lines, b"\r\n", body]))
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
