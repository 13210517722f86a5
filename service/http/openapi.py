"""The OpenAPI description of `/predict` and of feedback, from the structs of bodies; it knows no route."""

from __future__ import annotations

import msgspec

from service.errors import (
    BodyTooLarge,
    ErrorAnswer,
    HeadTooLarge,
    InvalidField,
    MalformedBody,
    MethodNotAllowed,
    NotReady,
    Overloaded,
    ServiceError,
    Unauthorized,
    UnknownArm,
    UnsupportedMediaType,
)
from service.feedback.events import FeedbackAnswer, FeedbackRequest
from service.http.examples import Examples, JsonObject
from service.http.heads import FEEDBACK_PATH, PREDICT_PATH
from service.wire import PredictAnswer, PredictRequest

ERRORS: tuple[ServiceError, ...] = (
    MalformedBody("the body must be JSON (JSON is malformed: invalid character (byte 5))"),
    Unauthorized("'Authorization' must be Bearer and a token of this service; ask its operator"),
    UnknownArm(
        "'X-Arm' must be one of control, treatment (got 'contrl'); leave the header out to be given one"
    ),
    MethodNotAllowed("the method must be POST (got 'GET'); GET /docs describes it", allow="POST"),
    BodyTooLarge("the body must be 1048576 bytes at most (got 2000000 or more); split the request"),
    UnsupportedMediaType(
        "'Content-Type' must be application/json or application/msgpack (got 'text/plain'); send one of them"
    ),
    InvalidField(
        "'price' must be a number (got 'three'); leave it out when it is missing", path="$.context.price"
    ),
    Overloaded("the queue must hold 20000 rows at most (got 20100); try again soon"),
    HeadTooLarge("the headers must be 65536 bytes at most; send fewer of them"),
    NotReady("the arms must replay their golden rows first; try again in a moment"),
)
_TOO_MANY_EVENTS = InvalidField(
    "'events' must be 5000 at most (got 5001); split the request", path="$.events"
)
# A token as it looks.
TOKEN = "EEOZ-TbA5-hlMU9YjMAAAEKefcAxWolv0k2sl7vS"
_FEEDBACK_DESCRIPTION = """\
It is there if the service has `--feedback-keys`. An event that comes again counts once, so a list whose
answer was lost, or was a 429, is sent again as it is. One bad event loses no other: it is counted among the
refused, by its reason.
"""
_DESCRIPTION = """\
Send the request's shared fields as `context` and every ad as a candidate, as rows or, faster, as columns;
the answer has the shape and the encoding of the request, its results the order of the candidates.

`bid` is pCTR x value per click after the bid policy, per impression, exact at micros; null is no bid (zero,
below a floor, or no value per click). A missing field is encoded as missing and an unseen value as out of
vocabulary; a name that no field has is ignored; all three are counted in `/metrics`. An unknown name beside
`context` and `candidates` is refused.
"""


def merge_bidding(document: JsonObject, examples: Examples | None, *, needs_token: bool) -> JsonObject:
    """`document` with the paths of bids, the schemas of their bodies, and examples where there are any."""
    bodies = [PredictRequest, PredictAnswer, FeedbackRequest, FeedbackAnswer, ErrorAnswer]
    _, components = msgspec.json.schema_components(bodies, ref_template="#/components/schemas/{name}")
    document.setdefault("components", {}).setdefault("schemas", {}).update(components)
    predict, feedback = _operation(examples), _feedback()
    if needs_token:
        document["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        for operation in (predict, feedback):
            operation["security"] = [{"token": []}]
    document["paths"] = {
        PREDICT_PATH: {"post": predict},
        FEEDBACK_PATH: {"post": feedback},
        "/i/{token}": {"get": _pixel("impression", "200", "a transparent pixel (GIF)")},
        "/c/{token}": {"get": _pixel("click", "204", "nothing; it leads nowhere")},
        **document.get("paths", {}),
    }
    return document


def _operation(examples: Examples | None) -> JsonObject:
    requests, answers, errors = {}, {}, ERRORS
    if examples is not None:
        requests = {"rows": examples.rows_request, "columns": examples.columns_request}
        answers = {"rows": examples.rows_answer, "columns": examples.columns_answer}
        errors = tuple(examples.refusal if isinstance(each, InvalidField) else each for each in ERRORS)
    return {
        "tags": ["bidding"],
        "summary": "pCTR and bid of every candidate of a bid request",
        "description": _DESCRIPTION,
        "operationId": "predict",
        "parameters": [
            _header_parameter("X-Arm", "pins the arm by its name"),
            _header_parameter(
                "X-Split-Key", "the sticky unit of the A/B split; without it user_id, id or a random draw"
            ),
        ],
        "requestBody": {
            "required": True,
            "content": _content("PredictRequest", requests),
        },
        "responses": {
            "200": {
                "description": "the answer",
                "headers": {
                    "X-Arm": _header("the arm that answered"),
                    "X-Bundle": _header("the bundle that it serves, name@version"),
                },
                "content": _content("PredictAnswer", answers),
            },
            **{str(error.status): _refusal(error) for error in errors},
        },
    }


def _feedback() -> JsonObject:
    example = {"token": TOKEN, "type": "click", "at": 1_790_000_000_000}
    errors = (error for error in ERRORS if not isinstance(error, UnknownArm | InvalidField | NotReady))
    return {
        "tags": ["feedback"],
        "summary": "Impressions and clicks of candidates that were answered with tracking",
        "description": _FEEDBACK_DESCRIPTION,
        "operationId": "feedback",
        "requestBody": {
            "required": True,
            "content": _content("FeedbackRequest", {"click": {"events": [example]}}),
        },
        "responses": {
            "200": {
                "description": "what was counted",
                "content": _content(
                    "FeedbackAnswer", {"counted": {"counted": 1, "duplicates": 0, "refused": {}}}
                ),
            },
            **{str(error.status): _refusal(error) for error in (*errors, _TOO_MANY_EVENTS)},
        },
    }


def _pixel(event_type: str, status: str, answer: str) -> JsonObject:
    return {
        "tags": ["feedback"],
        "summary": f"The {event_type} of a token, for what can only load a URL",
        "description": "The answer tells nothing of the token; `POST /feedback` does.",
        "operationId": f"{event_type}_pixel",
        "parameters": [
            {"name": "token", "in": "path", "required": True, **_header("of the ad's result in an answer")}
        ],
        "responses": {
            status: {"description": answer},
            "429": _refusal(next(error for error in ERRORS if isinstance(error, Overloaded))),
        },
    }


def _content(schema: str, examples: dict[str, JsonObject]) -> JsonObject:
    described: JsonObject = {"schema": {"$ref": f"#/components/schemas/{schema}"}}
    if examples:
        described["examples"] = {name: {"value": value} for name, value in examples.items()}
    return {"application/json": described, "application/msgpack": described}


def _refusal(error: ServiceError) -> JsonObject:
    answer: JsonObject = {
        "description": f"{error.code}: {(type(error).__doc__ or '').strip()}",
        "content": {
            "application/json": {
                "schema": {"$ref": "#/components/schemas/ErrorAnswer"},
                "example": msgspec.json.decode(error.body()),
            }
        },
    }
    if error.retry_after_seconds is not None:
        answer["headers"] = {"Retry-After": _header("seconds after which to try again")}
    return answer


def _header(description: str) -> JsonObject:
    return {"description": description, "schema": {"type": "string"}}


def _header_parameter(name: str, description: str) -> JsonObject:
    return {"name": name, "in": "header", "required": False, **_header(description)}
