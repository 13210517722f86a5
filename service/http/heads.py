"""Heads of requests and answers as bytes, kept so that hardly any is parsed or written twice.

It knows neither connections nor what is done with a request.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

import httptools

from service.quality import FULL
from service.tracing.context import PARENT, STATE
from service.wire import CODECS, BeforeResults, Codec, before_results

if TYPE_CHECKING:
    from service.arms.split import Arm
    from service.errors import ServiceError

Headers = list[tuple[bytes, bytes]]

PREDICT_PATH, FEEDBACK_PATH, CONTROL_PATH = "/predict", "/feedback", "/control"
# The routes that read a body; to others it is not passed on.
BODY_PATHS = frozenset((PREDICT_PATH, FEEDBACK_PATH, CONTROL_PATH))
PLAIN_START = f"POST {PREDICT_PATH} HTTP/1.1\r\n".encode()
END_OF_HEAD = b"\r\n\r\n"
# Longer heads are refused, and those with more headers.
MAX_HEAD_BYTES = 65_536
MAX_HEADERS = 256
# Those that are remembered take a few megabytes together at most.
MAX_KNOWN_HEADS = 1024
MAX_KNOWN_HEAD_BYTES = 1024
# Headers of an upgrade offer, which are not passed on with the request.
_OFFER_HEADERS = (b"connection", b"upgrade", b"http2-settings")
# A request with one of these headers needs what only ASGI offers.
_ASGI_ONLY = frozenset((b"transfer-encoding", b"content-encoding", b"expect", b"upgrade"))


class PlainHead(NamedTuple):
    """What the head of a plain request says: see `PlainHeads`."""

    size: int
    """Bytes of the head, with the empty line at its end."""
    headers: dict[bytes, bytes]
    length: int
    """Bytes of the body."""
    keep_alive: bool


class PlainHeads:
    """The heads of plain requests to /predict, by their bytes.

    A request is plain if it is a POST of HTTP/1.1 whose length is declared and at most `max_body_bytes`, and
    which asks for nothing that only ASGI offers. What a head says is a function of its bytes alone, read by a
    parser of its own, so remembering it changes no answer, whatever else a connection has sent.
    """

    def __init__(self, max_body_bytes: int) -> None:
        self._max_body_bytes = max_body_bytes
        self._known: dict[bytes, PlainHead] = {}

    def __len__(self) -> int:
        """How many are remembered."""
        return len(self._known)

    def of(self, data: bytes) -> PlainHead | None:
        """The head with which `data` begins; None unless it is whole and that of a plain request."""
        end = data.find(END_OF_HEAD, 0, MAX_HEAD_BYTES) + len(END_OF_HEAD)
        head = data[:end]
        found = self._known.get(head)
        if found is None and data.startswith(PLAIN_START) and end >= len(END_OF_HEAD):
            found = read_plain_head(head, self._max_body_bytes)
            # One with a traceparent never comes again, and would push others out.
            if found is not None and end <= MAX_KNOWN_HEAD_BYTES and PARENT not in found.headers:
                if len(self._known) >= MAX_KNOWN_HEADS:
                    self._known.clear()
                self._known[head] = found
        return found


class _HeadEvents:
    """What a parser reports of a head."""

    def __init__(self) -> None:
        self.url = b""
        self.headers: Headers = []
        self.begun = 0
        self.is_whole = self.has_body = False

    def on_message_begin(self) -> None:
        self.begun += 1

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self.is_whole = True

    def on_body(self, _: bytes) -> None:
        self.has_body = True


def read_plain_head(head: bytes, max_body_bytes: int) -> PlainHead | None:
    """What the bytes of one whole head say, or None if it is not a plain request's."""
    events = _HeadEvents()
    parser = httptools.HttpRequestParser(events)
    try:
        parser.feed_data(head)
    except (httptools.HttpParserError, httptools.HttpParserUpgrade):
        return None
    headers = headers_by_name(events.headers)
    length = headers.get(b"content-length", b"")
    is_one_head = events.is_whole and events.begun == 1 and not events.has_body
    is_plain = (
        is_one_head
        and events.url == PREDICT_PATH.encode()
        and parser.get_method() == b"POST"
        and parser.get_http_version() == "1.1"
        and len(events.headers) <= MAX_HEADERS
        and _ASGI_ONLY.isdisjoint(headers)
        and length.isdigit()
        and len(length) < 19
        and int(length) <= max_body_bytes
    )
    return PlainHead(len(head), headers, int(length), parser.should_keep_alive()) if is_plain else None


class AnswerHead:
    """The headers of an answer: `headers` as ASGI takes them, `lines` as HTTP/1.1 writes them."""

    __slots__ = ("headers", "lines")

    def __init__(self, headers: Headers) -> None:
        self.headers = headers
        self.lines = header_lines(headers)


class ArmHeads:
    """The heads of an arm's answers: `headers` are in all of them; `ok` is that of a 200, by codec name."""

    __slots__ = ("_before_results", "_named", "_revision", "headers", "ok")

    def __init__(self, arm: Arm) -> None:
        bundle = arm.predictor.manifest.id
        self._named = arm.name, bundle
        self.headers: Headers = [(b"x-arm", _header_value(arm.name)), (b"x-bundle", _header_value(bundle))]
        self.ok = {
            codec.name: AnswerHead([(b"content-type", codec.media_type), *self.headers]) for codec in CODECS
        }
        self._prepare(0)

    def before_results(
        self, codec: Codec, revision: int, quality: str = FULL, *, is_explored: bool = False
    ) -> BeforeResults:
        """What the body of a 200 has between the request's id and the results."""
        if quality != FULL:
            return before_results(codec, *self._named, quality=quality)
        if revision != self._revision:  # it seldom changes
            self._prepare(revision)
        return self._before_results[is_explored][codec.name]

    def _prepare(self, revision: int) -> None:
        self._revision = revision
        self._before_results = [
            {
                codec.name: before_results(codec, *self._named, revision, is_explored=is_explored)
                for codec in CODECS
            }
            for is_explored in (False, True)
        ]


class DefaultHeaderLines:
    """The lines of uvicorn's default headers, written again when uvicorn replaces the list (a new date)."""

    def __init__(self) -> None:
        self._headers: Headers | None = None
        self._lines = b""

    def of(self, headers: Headers) -> bytes:
        """The lines of these headers."""
        if headers is not self._headers:
            self._headers, self._lines = headers, header_lines(headers)
        return self._lines


def headers_by_name(headers: Iterable[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """The value of each header, of one that comes several times the last; those of a trace are joined.

    So two parents are malformed, and a state in several lines is one.
    """
    lines = [*headers]
    found = dict(lines)
    if len(found) < len(lines):
        for name in (PARENT, STATE):
            if name in found:
                found[name] = b",".join(value for each, value in lines if each == name)
    return found


def header_lines(headers: Headers) -> bytes:
    """Headers as HTTP/1.1 writes them."""
    return b"".join([b"%b: %b\r\n" % header for header in headers])


def head_without_offer(
    method: bytes, url: bytes, version: str, headers: Headers, *, keep_alive: bool
) -> bytes:
    """The head of a request that offered an upgrade, as one that does not."""
    kept = [header for header in headers if header[0] not in _OFFER_HEADERS]
    if not keep_alive:
        kept.append((b"connection", b"close"))
    return b"%b %b HTTP/%b\r\n%b\r\n" % (method, url, version.encode(), header_lines(kept))


def refusal_lines(error: ServiceError) -> bytes:
    """The answer after its first line, of a connection that closes with it."""
    body = error.body()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    headers += [header for header in error.headers() if header[0] != b"connection"]
    return b"%b\r\n%b" % (header_lines([*headers, (b"connection", b"close")]), body)


def _header_value(text: str) -> bytes:
    """`text` as the value of a header: printable ASCII, with a question mark for anything else."""
    return "".join(char if " " < char <= "~" else "?" for char in text).encode("ascii")
