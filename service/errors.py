"""The service's errors: each class carries the HTTP status and the code a client sees; it knows no route.

```
ServiceError
├── BadConfiguration          (never reaches a client: the service prints one line and does not start)
├── MalformedRequest          400 malformed_request      (not HTTP)
├── MalformedBody             400 malformed_body
├── Unauthorized              401 unauthorized           WWW-Authenticate
├── NotFound                  404 not_found
│   └── UnknownArm            404 unknown_arm
├── MethodNotAllowed          405 method_not_allowed
├── BodyTooLarge              413 body_too_large
├── UnsupportedMediaType      415 unsupported_media_type
├── InvalidField              422 invalid_field
├── Overloaded                429 overloaded             Retry-After
│   ├── Unread                429 overloaded             Retry-After
│   ├── NoRoom                429 overloaded             Retry-After
│   │   └── Yielded           429 overloaded             Retry-After
│   └── DeadlinePassed        429 overloaded             Retry-After, counted as too_late
├── HeadTooLarge              431 head_too_large
├── InferenceFailed           500 inference_failed
│   └── RowFailed             500 row_failed
├── NotReady                  503 not_ready              Retry-After
└── CannotBid                 503 cannot_bid
```

The body of every error answer is `{"error": {"code": ..., "message": ..., "path": ...}}`. It is JSON whatever
the encoding of the request: a client with a broken encoder must still be able to read the reason.
"""

from __future__ import annotations

from typing import ClassVar

import msgspec

# The exit status of a process that refuses to start.
STARTUP_FAILURE = 3

MAX_MESSAGE_CHARACTERS = 400


class ErrorDetail(msgspec.Struct, frozen=True):
    """What went wrong: a stable code for programs, a message for people, and the JSON path."""

    code: str
    message: str
    path: str | None = None


class ErrorAnswer(msgspec.Struct, frozen=True):
    """The body of every answer other than 200."""

    error: ErrorDetail


class ServiceError(Exception):
    """A deliberate refusal. `path` is the JSON path of the offending value, if there is one."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    retry_after_seconds: ClassVar[int | None] = None
    closes_connection: ClassVar[bool] = False

    def __init__(self, message: str, *, path: str | None = None) -> None:
        super().__init__(shorten(message))
        self.path = path

    @property
    def outcome(self) -> str:
        """What the metrics call a request that ended so: the code, or more exactly what happened."""
        return self.code

    @property
    def message(self) -> str:
        """The one line that a client or an operator reads."""
        return str(self.args[0])

    def body(self) -> bytes:
        """The JSON body of the error answer."""
        return msgspec.json.encode(ErrorAnswer(ErrorDetail(self.code, self.message, self.path)))

    def headers(self) -> list[tuple[bytes, bytes]]:
        """The headers of the answer besides its type and length."""
        found: list[tuple[bytes, bytes]] = []
        if self.retry_after_seconds is not None:
            found.append((b"retry-after", str(self.retry_after_seconds).encode()))
        if self.closes_connection:
            found.append((b"connection", b"close"))
        return found


class BadConfiguration(ServiceError):
    """The service cannot do what the settings ask; it says so in one line at start."""

    code = "bad_configuration"


class MalformedRequest(ServiceError):
    """The bytes received are not HTTP."""

    status = 400
    code = "malformed_request"


class MalformedBody(ServiceError):
    """The body is not JSON, or not MessagePack."""

    status = 400
    code = "malformed_body"


class Unauthorized(ServiceError):
    """The request has no token that the service accepts."""

    status = 401
    code = "unauthorized"

    def headers(self) -> list[tuple[bytes, bytes]]:
        """`WWW-Authenticate`: what the route asks for."""
        return [*super().headers(), (b"www-authenticate", b"Bearer")]


class NotFound(ServiceError):
    """The path is not a route."""

    status = 404
    code = "not_found"


class UnknownArm(NotFound):
    """`X-Arm` names an arm that this service does not have."""

    code = "unknown_arm"


class MethodNotAllowed(ServiceError):
    """The route has other methods."""

    status = 405
    code = "method_not_allowed"

    def __init__(self, message: str, *, allow: str) -> None:
        super().__init__(message)
        self.allow = allow

    def headers(self) -> list[tuple[bytes, bytes]]:
        """`Allow`: the methods of the route."""
        return [*super().headers(), (b"allow", self.allow.encode())]


class BodyTooLarge(ServiceError):
    """The body is longer than `max_body_bytes`; the rest of it is not read."""

    status = 413
    code = "body_too_large"
    closes_connection = True


class UnsupportedMediaType(ServiceError):
    """The service does not know the encoding of the body."""

    status = 415
    code = "unsupported_media_type"


class InvalidField(ServiceError):
    """The body is well formed and holds an invalid value."""

    status = 422
    code = "invalid_field"


class Overloaded(ServiceError):
    """The queue of rows is full. `reason` is the label of a metric."""

    status = 429
    code = "overloaded"
    retry_after_seconds = 1
    reason: ClassVar[str] = "queue"


class Unread(Overloaded):
    """The request has waited for too long, and was not read."""

    reason = "time"


class NoRoom(Overloaded):
    """There is no memory for the bytes of the request."""

    reason = "bytes"


class Yielded(NoRoom):
    """The request makes room for others before all of it has arrived; the rest of it is not read."""

    closes_connection = True


class DeadlinePassed(Overloaded):
    """`tmax_ms` has passed: the client no longer waits, so the answer is not computed."""

    reason = "deadline"
    outcome = "too_late"


class HeadTooLarge(ServiceError):
    """The headers are longer than the service accepts."""

    status = 431
    code = "head_too_large"


class InferenceFailed(ServiceError):
    """The graph failed on the batch: the fault of the service, never of the client."""

    code = "inference_failed"


class RowFailed(InferenceFailed):
    """A row of the request has no finite logit: the fault of the bundle, whose weights overflow there."""

    code = "row_failed"


class NotReady(ServiceError):
    """The arms have not yet replayed their golden rows."""

    status = 503
    code = "not_ready"
    retry_after_seconds = 1


class CannotBid(ServiceError):
    """The process answers, but an arm of it no longer scores; only a probe is told so."""

    status = 503
    code = "cannot_bid"


def shorten(text: str, limit: int = MAX_MESSAGE_CHARACTERS) -> str:
    """`text` in at most `limit` characters that any encoder accepts (lone surrogates are escaped)."""
    text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return text if len(text) <= limit else text[: limit - 1] + "…"
