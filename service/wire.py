"""The bodies of `/predict` as structs: bytes -> request, answer -> bytes, in JSON or MessagePack.

It knows no bundle. The encoder of the arm checks the values of features, because only the schema says what a
field may hold, and a name that no schema has must not stop bidding.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta, Raw
from numpy.typing import NDArray

from service.errors import InvalidField, MalformedBody, UnsupportedMediaType, shorten

# Bids are whole millionths, and up to 1e9 a float64 holds those exactly.
MAX_MONEY = 1e9
MAX_TMAX_MS = 3_600_000.0

_VALUE_SCHEMA = {
    "description": "a category (a string, or an integer read as its decimal string), a number, or a sequence "
    "of categories; null and the empty string are missing",
    "anyOf": [
        {"type": "string"},
        {"type": "number"},
        {"type": "null"},
        {"type": "array", "items": {"anyOf": [{"type": "string"}, {"type": "integer"}]}},
    ],
}
RawFeature = Annotated[Any, Meta(extra_json_schema=_VALUE_SCHEMA)]
Money = Annotated[float, Meta(ge=0.0, le=MAX_MONEY)]
Milliseconds = Annotated[float, Meta(gt=0.0, le=MAX_TMAX_MS)]
ValuePerClick = Annotated[
    Money | None, Meta(description="what a click is worth, in any currency; absent: a pctr, and no bid")
]
BidFloor = Annotated[Money | None, Meta(description="the lowest bid worth making, per impression")]


class Candidate(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """One ad to score."""

    id: Annotated[
        str | None,
        Meta(description="echoed; the catalogue may hold its features; two candidates may share one"),
    ] = None
    features: Annotated[
        dict[str, RawFeature],
        Meta(description="the candidate fields, by name; a given value, also null, wins over the catalogue"),
    ] = {}
    value_per_click: ValuePerClick = None
    bid_floor: BidFloor = None


class CandidateColumns(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """The same ads as columns of equal length, which are smaller and faster to read."""

    id: list[str | None] | None = None
    features: Annotated[
        dict[str, list[RawFeature]],
        Meta(
            description="the candidate fields, by name, one value a candidate; the catalogue may hold others"
        ),
    ] = {}
    value_per_click: list[ValuePerClick] | None = None
    bid_floor: list[BidFloor] | None = None


class PredictRequest(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """One bid request: its candidates, as rows or as columns, and what they share."""

    candidates: list[Candidate] | CandidateColumns
    id: Annotated[str | None, Meta(description="echoed")] = None
    user_id: Annotated[
        str | None,
        Meta(
            description="the store may hold this user's features; the sticky unit of the A/B split, unless "
            "X-Split-Key is sent; fills a context field of this name"
        ),
    ] = None
    tmax_ms: Annotated[
        Milliseconds | None,
        Meta(description="how long the answer is of use: refused (429) if it waits longer in the queue"),
    ] = None
    context: Annotated[
        dict[str, RawFeature],
        Meta(description="the context fields, by name; a given value, also null, wins over the store"),
    ] = {}


class Result(msgspec.Struct, gc=False):
    """One candidate's answer: `pctr`, the calibrated click probability; `bid`, per impression, or null."""

    id: str | None
    pctr: float
    bid: float | None


class ResultColumns(msgspec.Struct, gc=False):
    """The same answers as columns."""

    id: list[str | None]
    pctr: list[float]
    bid: list[float | None]


class PredictAnswer(msgspec.Struct, gc=False):
    """The answer to one bid request; `results` have the order and the shape of the candidates."""

    id: str | None
    arm: str
    bundle: str
    results: list[Result] | ResultColumns


@dataclass(frozen=True)
class Codec:
    """One encoding of the interface: its media type, decoder and encoder.

    `decode_as(bytes, type=...)` decodes any other type, for rare cases that need no decoder of their own.
    """

    name: str
    media_type: bytes
    decode: Callable[[bytes], PredictRequest]
    encode: Callable[[PredictAnswer], bytes]
    decode_as: Callable[..., Any]


_json_decoder = msgspec.json.Decoder(PredictRequest)
_msgpack_decoder = msgspec.msgpack.Decoder(PredictRequest)
JSON = Codec(
    name="JSON",
    media_type=b"application/json",
    decode=_json_decoder.decode,
    encode=msgspec.json.Encoder().encode,
    decode_as=msgspec.json.decode,
)
MSGPACK = Codec(
    name="MessagePack",
    media_type=b"application/msgpack",
    decode=_msgpack_decoder.decode,
    encode=msgspec.msgpack.Encoder().encode,
    decode_as=msgspec.msgpack.decode,
)
CODECS = JSON, MSGPACK
_BY_MEDIA_TYPE = {
    b"application/json": JSON,
    b"application/msgpack": MSGPACK,
    b"application/x-msgpack": MSGPACK,
    b"application/vnd.msgpack": MSGPACK,
}


def codec_for(content_type: bytes | None) -> Codec:
    """The codec of a `Content-Type`, whatever its parameters and case; raises UnsupportedMediaType."""
    if content_type is not None:
        found = _BY_MEDIA_TYPE.get(content_type) or _BY_MEDIA_TYPE.get(
            content_type.partition(b";")[0].strip().lower()
        )
        if found is not None:
            return found
    shown = "none" if content_type is None else repr(shorten(content_type.decode("latin-1"), 100))
    raise UnsupportedMediaType(
        f"'Content-Type' must be application/json or application/msgpack (got {shown}); send one of them"
    )


def decode_request(body: bytes, codec: Codec) -> PredictRequest:
    """The request in `body`; raises MalformedBody for the encoding, InvalidField for the contents."""
    try:
        return codec.decode(body)
    except msgspec.ValidationError as error:
        raise _invalid_field(str(error), body, codec) from None
    except msgspec.DecodeError as error:
        raise MalformedBody(f"the body must be {codec.name} ({error})") from None
    except UnicodeDecodeError as error:
        raise MalformedBody(f"the body must be {codec.name}, its strings UTF-8 ({error})") from None
    except RecursionError:
        raise MalformedBody(f"the body must be {codec.name} that is not nested so deeply") from None


def _invalid_field(text: str, body: bytes, codec: Codec) -> InvalidField:
    """The error that msgspec's `text` describes: `reason - at `path``, without a path for the whole body."""
    reason, at, path = text.rpartition(" - at `")  # the last one: a name in the reason may hold the same
    if not at:
        return InvalidField(text, path="$")
    path = path.removesuffix("`").removeprefix("key` in `")
    return InvalidField(reason, path=_with_name(path, body, codec))


def _with_name(path: str, body: bytes, codec: Codec) -> str:
    """`path` up to the first feature, which the decoder gives as `[...]`, with the feature's name."""
    container, unnamed, _ = path.partition("[...]")
    if not unnamed:
        return path
    expected = list[Any] if container == "$.candidates.features" else Any
    # It keeps no name if it cannot be found: the name is there twice, or the body is malformed further on.
    with contextlib.suppress(msgspec.DecodeError, LookupError, UnicodeDecodeError, RecursionError):
        part: Any = body
        for name, index in re.findall(r"\.(\w+)|\[(\d+)\]", container):
            if name:
                part = codec.decode_as(part, type=dict[str, Raw])[name]
            else:
                part = codec.decode_as(part, type=list[Raw])[int(index)]
        for name, value in codec.decode_as(part, type=dict[str, Raw]).items():
            try:
                codec.decode_as(value, type=expected)
            except msgspec.ValidationError:
                return f"{container}.{shorten(name, 100)}"
    return path


def count_rows(candidates: list[Candidate] | CandidateColumns, max_candidates: int) -> int:
    """The number of candidates; raises InvalidField for none, too many, or columns of unequal length."""
    if isinstance(candidates, list):
        rows = len(candidates)
    else:
        rows = _columns_length(candidates)
    if not 0 < rows <= max_candidates:
        remedy = "send at least one" if rows == 0 else "split the request"
        raise InvalidField(
            f"'candidates' must be 1 to {max_candidates} ads (got {rows}); {remedy}", path="$.candidates"
        )
    return rows


def money_of(
    candidates: list[Candidate] | CandidateColumns,
) -> tuple[Sequence[float | None] | None, Sequence[float | None] | None]:
    """Values per click [rows] and bid floors [rows], None where absent; None for a column that is absent."""
    if isinstance(candidates, list):
        values = [candidate.value_per_click for candidate in candidates]
        return values, [candidate.bid_floor for candidate in candidates]
    return candidates.value_per_click, candidates.bid_floor


def answer_of(
    request: PredictRequest, arm: str, bundle: str, pctr: NDArray[np.float64], bids: list[float | None]
) -> PredictAnswer:
    """The answer in the shape of the request: rows for rows, columns for columns."""
    candidates = request.candidates
    probabilities: list[float] = pctr.tolist()
    if isinstance(candidates, list):
        # One struct a row is faster than encoding columns first and merging their bytes into rows.
        results: list[Result] | ResultColumns = list(
            map(Result, [candidate.id for candidate in candidates], probabilities, bids)
        )
    else:
        results = ResultColumns(candidates.id or [None] * len(bids), probabilities, bids)
    return PredictAnswer(request.id, arm, bundle, results)


def _columns_length(columns: CandidateColumns) -> int:
    """The length that every column has; raises InvalidField naming the first that differs."""
    named: list[tuple[str, Sequence[object] | None]] = [
        ("id", columns.id),
        ("value_per_click", columns.value_per_click),
        ("bid_floor", columns.bid_floor),
        *((f"features.{name}", values) for name, values in columns.features.items()),
    ]
    present = [(name, len(values)) for name, values in named if values is not None]
    if not present:
        return 0
    first, rows = present[0]
    for name, length in present[1:]:
        if length != rows:
            raise InvalidField(
                f"'{name}' must have the length of '{first}', {rows} (got {length}); send null for no value",
                path=f"$.candidates.{name}",
            )
    return rows
