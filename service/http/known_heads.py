"""Heads of plain requests, by their bytes; it knows neither connections nor what is done with a request."""

from __future__ import annotations

PLAIN_START = b"POST /predict HTTP/1.1\r\n"
END_OF_HEAD = b"\r\n\r\n"
# About a megabyte of each at most.
MAX_HEAD_BYTES = 1024
MAX_HEADS = 1024


class KnownHeads:
    """Heads that the parser has read before, with what it made of them: it need not read them again.

    A client sends the same head on and on, but for the length of the body. Only whole, plain requests are
    remembered and recognised: the head, then exactly as many bytes as it says. So nobody can be made to see
    in the same bytes what the parser would not.
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
        """`data` was read by the parser; if it is one request with these headers, its head is known now."""
        end = data.find(END_OF_HEAD, 0, MAX_HEAD_BYTES) + len(END_OF_HEAD)
        if data.startswith(PLAIN_START) and len(data) - end == int(headers[b"content-length"]):
            if len(self._headers) >= MAX_HEADS:
                self._headers.clear()
            self._headers[data[:end]] = headers
