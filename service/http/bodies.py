"""Bodies of requests that come through ASGI, read within bounds, and answers sent; it knows no route."""

from __future__ import annotations

import asyncio
import contextlib

from starlette.types import Receive, Send

from service.errors import BodyTooLarge, UnsupportedMediaType, Yielded
from service.http.heads import Headers
from service.http.intake import Arrival, Intake, Parts

# How much of a body that is too long is read and dropped, so that its client can read the 413: a socket that
# closes with unread bytes is reset, and the answer is lost.
MAX_DISCARDED_BYTES = 8 * 1_048_576
DISCARD_SECONDS = 2.0
NO_CONTENT = 204


class ClientLeft(Exception):
    """The connection closed before the answer was ready."""


async def send_whole(send: Send, status: int, headers: Headers, body: bytes) -> None:
    """Send a whole answer. A 204 has no body, and no length of it (RFC 9110, section 8.6)."""
    if status != NO_CONTENT:
        headers.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def read_body(headers: dict[bytes, bytes], receive: Receive, limit: int, intake: Intake) -> bytes:
    """The body, of `limit` bytes at most; while it arrives, `intake` accounts for it.

    Raises UnsupportedMediaType, ClientLeft, Yielded, and BodyTooLarge as soon as is known.
    """
    encoding = headers.get(b"content-encoding", b"identity")
    if encoding.lower() != b"identity":
        raise UnsupportedMediaType(
            f"'Content-Encoding' must be identity (got {encoding.decode('latin-1')!r}); send it unpacked"
        )
    declared = headers.get(b"content-length", b"0")
    if declared.isdigit() and int(declared[:19]) > limit:
        # A client that asks first (Expect: 100-continue) has sent no body that had to be discarded.
        if b"expect" not in headers:
            await _discard(receive)
        raise _too_large(int(declared[:19]), limit)
    message = await receive()
    body: bytes = message.get("body", b"")
    if message.get("more_body"):
        body = await _read_parts(body, receive, intake, limit)
    elif message["type"] == "http.disconnect":
        raise ClientLeft
    if len(body) > limit:
        raise _too_large(len(body), limit)
    return body


async def _read_parts(first: bytes, receive: Receive, intake: Intake, limit: int) -> bytes:
    """A body from its `first` part on. Raises ClientLeft, BodyTooLarge, and Yielded if it must."""
    patience, parts = asyncio.timeout(None), Parts()
    parts.add(first)
    arrival = Arrival(intake, lambda: patience.reschedule(0.0))
    try:
        async with patience:
            more_body = True
            while more_body:
                arrival.hold(parts.size)
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientLeft
                parts.add(message.get("body", b""))
                more_body = message.get("more_body", False)
                if parts.size > limit and more_body:
                    await _discard(receive)
                    raise _too_large(parts.size, limit)
    except TimeoutError:
        raise Yielded(str(intake.refusal())) from None
    finally:
        arrival.hold(0)
    return parts.joined()


def _too_large(size: int, limit: int) -> BodyTooLarge:
    return BodyTooLarge(f"the body must be {limit} bytes at most (got {size} or more); split the request")


async def _discard(receive: Receive) -> None:
    size, more_body = 0, True
    # A client that declared too much may also send nothing; it gets its answer all the same.
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(DISCARD_SECONDS):
            while more_body and size < MAX_DISCARDED_BYTES:
                message = await receive()
                size += len(message.get("body", b""))
                more_body = message.get("more_body", False)
