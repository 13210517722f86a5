"""Messages that are no HTTP, or that HTTP forbids: a server may refuse each, close, or answer as planned."""

from __future__ import annotations

_LINE = b"POST /predict HTTP/1.1\r\n"
_HOST = b"Host: a\r\n"
_TYPE = b"Content-Type: application/json\r\n"
_CHUNKED = _LINE + _HOST + _TYPE + b"Transfer-Encoding: chunked\r\n\r\n"

MALFORMED: tuple[bytes, ...] = (
    # No HTTP.
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"SSH-2.0-OpenSSH_9.0\r\n",
    b"\x00" * 500,
    b"\xff" * 500,
    b"\r\n" * 500,
    b"\n\n\n",
    b"GET\r\n\r\n",
    b"hello\r\n\r\n",
    b'{"candidates": [{}]}\r\n\r\n',
    # Request lines.
    b"POST /predict\r\n\r\n",
    b"POST  /predict HTTP/1.1\r\n" + _HOST + b"\r\n",
    b"POST /predict HTTP/9.9\r\n" + _HOST + b"\r\n",
    b"POST /predict HTTP/1.1 more\r\n" + _HOST + b"\r\n",
    b"post /predict HTTP/1.1\r\n" + _HOST + b"\r\n",
    b"P\x00ST /predict HTTP/1.1\r\n" + _HOST + b"\r\n",
    b"POST /\x00predict HTTP/1.1\r\n" + _HOST + b"\r\n",
    b"POST http://elsewhere/predict HTTP/1.1\r\n" + _HOST + b"Content-Length: 2\r\n\r\n{}",
    b"CONNECT elsewhere:443 HTTP/1.1\r\nHost: elsewhere\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\n" + _HOST + b"\r\n",
    b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n" + _HOST + b"\r\n",
    b"GET /%ff%fe%00/../../etc/passwd HTTP/1.1\r\n" + _HOST + b"\r\n",
    b"BREW /predict HTTP/1.1\r\n" + _HOST + b"\r\n",
    # Headers.
    _LINE + b"no colon\r\n\r\n",
    _LINE + b": no name\r\n\r\n",
    _LINE + b"Host : a\r\n\r\n",
    _LINE + _HOST + b" folded: line\r\n\r\n",
    _LINE + _HOST + b"X-\x00: a\r\n\r\n",
    _LINE + _HOST + b"X: \x00\r\n\r\n",
    _LINE + _HOST + b"X-Arm: \xff\xfe\r\nContent-Length: 2\r\n\r\n{}",
    _LINE + _HOST + b"X-Split-Key: " + b"\x80" * 4000 + b"\r\nContent-Length: 2\r\n\r\n{}",
    _LINE + _HOST + b"".join(b"X-%d: a\r\n" % number for number in range(5000)) + b"\r\n",
    _LINE + _HOST + b"X: " + b"a" * 200_000 + b"\r\n\r\n",
    _LINE + _HOST + _HOST + b"Content-Length: 2\r\n\r\n{}",
    _LINE + _HOST + b"Expect: something\r\nContent-Length: 2\r\n\r\n{}",
    # Lengths.
    _LINE + _HOST + b"Content-Length: -5\r\n\r\n",
    _LINE + _HOST + b"Content-Length: +2\r\n\r\n{}",
    _LINE + _HOST + b"Content-Length: 0x2\r\n\r\n{}",
    _LINE + _HOST + b"Content-Length: 2, 2\r\n\r\n{}",
    _LINE + _HOST + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{} ",
    _LINE + _HOST + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    _LINE + _HOST + b"Content-Length: " + b"9" * 40 + b"\r\n\r\n{}",
    _LINE + _HOST + b"Content-Length: 1e3\r\n\r\n{}",
    _LINE + _HOST + _TYPE + b"Content-Length: 100\r\n\r\n{}",
    # Chunks.
    _CHUNKED + b"zz\r\n",
    _CHUNKED + b"-1\r\n{}\r\n0\r\n\r\n",
    _CHUNKED + b"ffffffffffffffffff\r\n{}\r\n",
    _CHUNKED + b"2\r\n{}XX0\r\n\r\n",
    _CHUNKED + b"2;" + b"a" * 100_000 + b"\r\n{}\r\n0\r\n\r\n",
    _CHUNKED + b"2\r\n{}\r\n0\r\nTrailer: " + b"a" * 100_000 + b"\r\n\r\n",
    _LINE + _HOST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    _LINE + _HOST + b"Transfer-Encoding: identity\r\n\r\n",
    _LINE + _HOST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    # Types and encodings.
    _LINE + _HOST + b"Content-Type: application/xml\r\nContent-Length: 2\r\n\r\n{}",
    _LINE + _HOST + b"Content-Type: \xff\r\nContent-Length: 2\r\n\r\n{}",
    _LINE + _HOST + _TYPE + b"Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}",
    _LINE + _HOST + b"Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 2\r\n\r\n{}",
    b"POST /predict HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\n{}",
)
