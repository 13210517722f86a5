"""The bodies of `/predict` as structs, in JSON or MessagePack, and what their candidates are.

It knows no bundle. A feature's value is a scalar or a list of scalars; the encoder of the arm checks which,
because only the schema says what a field may hold.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple, NoReturn

import msgspec
import numpy as np
from msgspec import UNSET, Meta, UnsetType
from numpy.typing import NDArray

from service.errors import InvalidField, UnsupportedMediaType, shorten
from service.quality import FULL

# Bids are whole millionths, and up to 1e9 a float64 holds those exactly.
MAX_MONEY = 1e9
MAX_TMAX_MS = 3_600_000.0
# No setting allows more ads in a request: a MessagePack array of more is refused by its first bytes.
MAX_CANDIDATES = 100_000

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
# Nothing deeper is ever built: a map could have keys that all hash alike, and reading it would take for ever.
RawFeature = Annotated[
    str | int | float | bool | list[str | int | bool | None] | None, Meta(extra_json_schema=_VALUE_SCHEMA)
]
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

    candidates: Annotated[list[Candidate], Meta(max_length=MAX_CANDIDATES)] | CandidateColumns
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
    tracking: Annotated[
        bool | UnsetType,
        Meta(
            description="whether each result has a token, by which its ad's click is reported; left out: as "
            "the service is set, which without a setting is false"
        ),
    ] = UNSET


class Result(msgspec.Struct, gc=False):
    """One candidate's answer: `pctr`, the calibrated click probability; `bid`, per impression, or null.

    `token`, with tracking alone, goes into `POST /feedback` when its ad is shown, and when it is clicked.
    """

    id: str | None
    pctr: float
    bid: float | None
    token: str | UnsetType = UNSET


class ResultColumns(msgspec.Struct, gc=False):
    """The same answers as columns."""

    id: list[str | None]
    pctr: list[float]
    bid: list[float | None]
    token: list[str] | UnsetType = UNSET


class PredictAnswer(msgspec.Struct, gc=False, kw_only=True):
    """The answer to one bid request; `results` have the order and the shape of the candidates."""

    id: str | None
    arm: str
    bundle: str
    calibration_revision: Annotated[
        int | UnsetType,
        Meta(
            description="the revision of the live calibration that corrected every pctr; absent: none did, "
            "and they are the bundle's own"
        ),
    ] = UNSET
    quality: Annotated[
        Literal["prior", "no-bid"] | msgspec.UnsetType,
        Meta(
            description="absent: the model scored the candidates; prior: it did not, and pctrs are click "
            "rates by a few fields; no-bid: it did not, every pctr is 0 and there are no bids"
        ),
    ] = msgspec.UNSET
    explore: Annotated[
        bool | UnsetType,
        Meta(
            description="true: chance chose the request to be explored, so bid on one of its candidates as "
            "if its pctr were not known; absent: it did not"
        ),
    ] = UNSET
    results: list[Result] | ResultColumns


@dataclass(frozen=True)
class Codec:
    """One encoding of the interface: its media type, decoders of requests and of answers, and encoder."""

    name: str
    media_type: bytes
    decode: Callable[[bytes | bytearray], PredictRequest]
    decode_answer: Callable[[bytes], PredictAnswer]
    encode: Callable[[Any], bytes]


_json_decoder = msgspec.json.Decoder(PredictRequest)
_msgpack_decoder = msgspec.msgpack.Decoder(PredictRequest)
JSON = Codec(
    name="JSON",
    media_type=b"application/json",
    decode=_json_decoder.decode,
    decode_answer=msgspec.json.Decoder(PredictAnswer).decode,
    encode=msgspec.json.Encoder().encode,
)
MSGPACK = Codec(
    name="MessagePack",
    media_type=b"application/msgpack",
    decode=_msgpack_decoder.decode,
    decode_answer=msgspec.msgpack.Decoder(PredictAnswer).decode,
    encode=msgspec.msgpack.Encoder().encode,
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


def count_rows(
    candidates: list[Candidate] | CandidateColumns, max_candidates: int, known: Container[str] | None = None
) -> int:
    """The number of candidates; raises InvalidField for none, too many, or columns of unequal length.

    Of columns of features, those count that are `known`, or all.
    """
    if isinstance(candidates, list):
        rows = len(candidates)
    else:
        rows = _columns_length(candidates, known)
    if not 0 < rows <= max_candidates:
        refuse_rows(rows, max_candidates)
    return rows


def refuse_rows(rows: int, max_candidates: int) -> NoReturn:
    """Raises InvalidField for a number of candidates that is not allowed."""
    remedy = "send at least one" if rows == 0 else "split the request"
    raise InvalidField(
        f"'candidates' must be 1 to {max_candidates} ads (got {rows}); {remedy}", path="$.candidates"
    )


class Asked(NamedTuple):
    """What the answer needs of a request. Its features need not be kept once they are encoded.

    `ad_ids`, `values_per_click` and `bid_floors` are [rows] with None for no value, or None for no column.
    """

    id: str | None
    ad_ids: Sequence[str | None] | None
    values_per_click: Sequence[float | None] | None
    bid_floors: Sequence[float | None] | None
    as_rows: bool


def asked_of(request: PredictRequest) -> Asked:
    """The same of rows and of columns."""
    candidates = request.candidates
    if isinstance(candidates, list):
        ids = [candidate.id for candidate in candidates]
        values = [candidate.value_per_click for candidate in candidates]
        floors = [candidate.bid_floor for candidate in candidates]
        return Asked(request.id, ids, values, floors, True)
    columns = candidates
    return Asked(request.id, columns.id, columns.value_per_click, columns.bid_floor, False)


def answer_of(
    asked: Asked,
    arm: str,
    bundle: str,
    pctr: NDArray[np.float64],
    bids: list[float | None],
    tokens: list[str] | None = None,
    quality: str = FULL,
    revision: int = 0,
    *,
    is_explored: bool = False,
) -> PredictAnswer:
    """The answer in the shape of the request: rows for rows, columns for columns; `tokens` if there are.

    `revision` is that of the live calibration, 0 for none.
    """
    probabilities: list[float] = pctr.tolist()
    ids = asked.ad_ids or [None] * len(bids)
    if asked.as_rows:
        # One struct a row is faster than encoding columns first and merging their bytes into rows.
        columns = (ids, probabilities, bids) if tokens is None else (ids, probabilities, bids, tokens)
        results: list[Result] | ResultColumns = list(map(Result, *columns))
    else:
        results = ResultColumns(list(ids), probabilities, bids, UNSET if tokens is None else tokens)
    answer = PredictAnswer(id=asked.id, arm=arm, bundle=bundle, results=results)
    if revision:
        answer.calibration_revision = revision
    if quality != FULL:
        answer.quality = quality  # type: ignore[assignment]
    if is_explored:
        answer.explore = True
    return answer


class BeforeResults(NamedTuple):
    """What an answer of an arm has between the request's id and the results, and how many keys it has."""

    text: bytes
    keys: int


def before_results(
    codec: Codec, arm: str, bundle: str, revision: int = 0, quality: str = FULL, *, is_explored: bool = False
) -> BeforeResults:
    """The same as `answer_of` gives it, for the native core; neither a `revision` of 0 is named, nor FULL."""
    named: dict[str, str | int] = {"arm": arm, "bundle": bundle}
    if revision:
        named["calibration_revision"] = revision
    if quality != FULL:
        named["quality"] = quality
    if is_explored:
        named["explore"] = True
    keys = len(named) + 2
    if codec is JSON:
        return BeforeResults(b"," + codec.encode(named)[1:-1] + b',"results":', keys)
    parts = [part for pair in named.items() for part in pair]
    return BeforeResults(b"".join(map(codec.encode, [*parts, "results"])), keys)


def _columns_length(columns: CandidateColumns, known: Container[str] | None) -> int:
    """The length that every column has; raises InvalidField naming the first that differs."""
    features = columns.features
    names = list(features) if known is None else [name for name in features if name in known]
    named: list[tuple[str, Sequence[object] | None]] = [
        ("id", columns.id),
        ("value_per_click", columns.value_per_click),
        ("bid_floor", columns.bid_floor),
        *((f"features.{name}", features[name]) for name in names),
    ]
    present = [(name, len(values)) for name, values in named if values is not None]
    if not present:
        # Of columns that no arm knows, the first says how many candidates there are: they are still bid for.
        return len(next(iter(features.values()), ()))
    first, rows = present[0]
    for name, length in present[1:]:
        if length != rows:
            raise InvalidField(
                f"'{name}' must have the length of '{first}', {rows} (got {length}); send null for no value",
                path=f"$.candidates.{name}",
            )
    return rows
