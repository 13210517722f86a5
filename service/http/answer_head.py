"""What answers say in their headers, written once and not at every answer; it knows no request."""

from __future__ import annotations

from typing import TYPE_CHECKING

from service.wire import CODECS

if TYPE_CHECKING:
    from service.arms.split import Arm

Headers = list[tuple[bytes, bytes]]


class Head:
    """The headers of an answer: `headers` as ASGI takes them, `lines` as they stand in an answer."""

    __slots__ = ("headers", "lines")

    def __init__(self, headers: Headers) -> None:
        self.headers = headers
        self.lines = lines_of(headers)


class ArmHead:
    """Of an arm's answers: `headers` are its own, in any answer, and `ok` all of a 200, by codec's name."""

    __slots__ = ("headers", "ok")

    def __init__(self, arm: Arm) -> None:
        bundle = arm.predictor.manifest.id
        self.headers: Headers = [(b"x-arm", _token(arm.name)), (b"x-bundle", _token(bundle))]
        self.ok = {codec.name: Head([(b"content-type", codec.media_type), *self.headers]) for codec in CODECS}


class DefaultLines:
    """What uvicorn has every answer say, written anew when the list is another: when the date changes."""

    def __init__(self) -> None:
        self._headers: Headers | None = None
        self._lines = b""

    def of(self, headers: Headers) -> bytes:
        """These headers' lines."""
        if headers is not self._headers:
            self._headers, self._lines = headers, lines_of(headers)
        return self._lines


def lines_of(headers: Headers) -> bytes:
    """Headers as they stand in an answer."""
    return b"".join([b"%b: %b\r\n" % header for header in headers])


def _token(text: str) -> bytes:
    """`text` as a header's value may be: printable ASCII, anything else as a question mark."""
    return "".join(char if " " < char <= "~" else "?" for char in text).encode("ascii")
