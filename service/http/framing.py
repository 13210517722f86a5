"""Where one HTTP/1.1 request ends in the bytes of a connection; the parser decides whether they are HTTP.

It knows neither sockets nor what a request asks for.
"""

from __future__ import annotations

from service.http.heads import MAX_HEAD_BYTES, Headers

# How much longer than the body the sizes of chunks and the trailers may be: each chunk takes time of its own.
MAX_CHUNK_BYTES = 8192


class RequestFrame:
    """Cuts bytes into parts that never reach beyond the end of one request.

    A head and a chunk's size end with a line, and a body has a stated length. So the parser can be given one
    request, and what follows can wait until that is answered. A frame trusts what it reads: it gives parts to
    a parser, which refuses all that is malformed.
    """

    __slots__ = ("_is_chunked", "_left", "_limit", "_line", "_overhead")

    def __init__(self) -> None:
        self._left = 0  # bytes until the end of the body or of the chunk
        self._is_chunked = False
        self._line = b""  # the part of a chunk's size that was read
        self._limit = MAX_HEAD_BYTES
        self._overhead = 0  # bytes of the head; or of chunks' sizes and trailers, less those of the body

    @property
    def is_too_long(self) -> bool:
        """Whether the head, or what frames the body, has more bytes than a request needs."""
        return self._overhead > self._limit

    def end_of_part(self, data: bytes, at: int) -> int:
        """The end of the next part of `data`, which begins at `at`."""
        if self._left:
            end = min(len(data), at + self._left)
            self._left -= end - at
        else:
            newline = data.find(b"\n", at)
            end = len(data) if newline < 0 else newline + 1
            if self._is_chunked:
                self._line += data[at:end]
                if newline >= 0:
                    self._read_size()
        self._overhead += end - at
        return end

    def end_head(self, headers: Headers) -> None:
        """The head is read: a body with these headers follows, or none."""
        if self.is_too_long:
            return
        self._limit, self._overhead = MAX_CHUNK_BYTES, 0
        for name, value in headers:
            if name == b"transfer-encoding":
                self._is_chunked, self._left = True, 0
                return
            if name == b"content-length" and value.isdigit():
                self._left = int(value[:19])

    def count_body(self, size: int) -> None:
        """So many bytes were of the body. A chunk may have a size of as many bytes as it holds."""
        self._overhead -= 2 * size

    def _read_size(self) -> None:
        """A line with the size of a chunk, or the empty line between two."""
        line, self._line = self._line.strip(), b""
        try:
            size = int(line.partition(b";")[0], 16)
        except ValueError:
            size = 0  # the parser refuses it
        if size:
            self._left = size + 2  # and the end of its last line
        else:
            self._is_chunked = False  # trailers are lines
