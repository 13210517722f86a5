"""Heads of requests and answers as bytes, kept so that none is parsed or written twice.

It knows neither connections nor what is done with a request.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from service.wire import CODECS

if TYPE_CHECKING:
    from service.arms.split import Arm

Headers = list[tuple[bytes, bytes]]

PREDICT_PATH = "/predict"
PLAIN_START = f"POST {PREDICT_PATH} HTTP/1.1\r\n".encode()
END_OF_HEAD = b"\r\n\r\n"
# Together about a megabyte at most.
MAX_HEAD_BYTES = 1024
MAX_HEADS = 1024


class KnownHeads:
    """Heads of plain requests that the parser has read before, by their bytes, with their headers.

    A client repeats its head, except for the length of the body. Only whole, plain requests are remembered
    and recognised: the head, then exactly as many bytes as it declares. So the same bytes never mean anything
    else here than to the parser.
    """

    def __init__(self) -> None:
        self._headers: dict[bytes, dict[bytes, bytes]] = {}

    def find(self, data: bytes) -> tuple[dict[bytes, bytes], bytes] | None:
        """Headers and body of a request whose head is known, if `data` is that request and nothing else."""
        end = data.find(END_OF_HEAD, 0, MAX_HEAD_BYTES) + len(END_OF_HEAD)
        headers = self._headers.get(data[:end])
        if headers is None or len(data) - end != int(headers[b"content-length"]):
            return None
        return headers, data[end:]

    def remember(self, data: bytes, headers: dict[bytes, bytes]) -> None:
        """Remember the head of `data`, if the request with these parsed headers is all that `data` holds."""
        end = data.find(END_OF_HEAD, 0, MAX_HEAD_BYTES) + len(END_OF_HEAD)
        if data.startswith(PLAIN_START) and len(data) - end == int(headers[b"content-length"]):
            if len(self._headers) >= MAX_HEADS:
                self._headers.clear()
            self._headers[data[:end]] = headers


class AnswerHead:
    """The headers of an answer: `headers` as ASGI takes them, `lines` as HTTP/1.1 writes them."""

    __slots__ = ("headers", "lines")

    def __init__(self, headers: Headers) -> None:
        self.headers = headers
        self.lines = header_lines(headers)


class ArmHeads:
    """The heads of an arm's answers: `headers` are in all of them; `ok` is that of a 200, by codec name."""

    __slots__ = ("headers", "ok")

    def __init__(self, arm: Arm) -> None:
        bundle = arm.predictor.manifest.id
        self.headers: Headers = [(b"x-arm", _header_value(arm.name)), (b"x-bundle", _header_value(bundle))]
        self.ok = {
            codec.name: AnswerHead([(b"content-type", codec.media_type), *self.headers]) for codec in CODECS
        }


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


def header_lines(headers: Headers) -> bytes:
    """Headers as HTTP/1.1 writes them."""
    return b"".join([b"%b: %b\r\n" % header for header in headers])


def _header_value(text: str) -> bytes:
    """`text` as the value of a header: printable ASCII, with a question mark for anything else."""
    return "".join(char if " " < char <= "~" else "?" for char in text).encode("ascii")
