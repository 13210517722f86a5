"""Bytes of a body -> the request in it, in time that is linear in the bytes, whoever sent them.

An ordinary body is decoded in one pass. A body that this refuses, or that is long and dense, is read with
care: its outline first, then the values of the fields that the arms have, and no others. So what a client
puts under a name that no field has is never built, and cannot stop bidding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import numpy as np
from msgspec import UNSET, Meta, Raw, UnsetType

from service.bundle.native import _native
from service.errors import InvalidField, MalformedBody, shorten
from service.wire import (
    JSON,
    MAX_CANDIDATES,
    MAX_MONEY,
    MAX_TMAX_MS,
    BidFloor,
    Candidate,
    CandidateColumns,
    Codec,
    Milliseconds,
    PredictRequest,
    RawFeature,
    ValuePerClick,
    refuse_rows,
)

if TYPE_CHECKING:
    from service.bundle._native import PlainRequest

# Shorter bodies take milliseconds at worst, whatever they hold.
LONG_BODY_BYTES = 65_536
# A longer one is dense with a container in each so many bytes. Building one costs as much as a long string.
BYTES_A_CONTAINER = 16
# The same for numbers next to zero, most of which decoders read with arithmetic of many digits.
BYTES_A_TINY_NUMBER = 512


@dataclass(frozen=True)
class KnownFields:
    """Names of the context's and the candidates' fields that some arm has; None: all names."""

    context: frozenset[str] | None = None
    candidate: frozenset[str] | None = None


ALL_FIELDS = KnownFields()


def read_plain(body: bytes, codec: Codec, max_candidates: int) -> PlainRequest | None:
    """The request in `body` as the native core reads it, which must be built; None if it is not plain.

    Whatever `decode_request` refuses is not plain, nor is what clients rarely send. The rest has the same
    values as there. The request keeps the body, which must not change.
    """
    return _native.read(body, codec is JSON, max_candidates, MAX_MONEY, MAX_TMAX_MS)


class _CandidateOutline(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    id: str | None = None
    features: dict[str, Raw] = {}
    value_per_click: ValuePerClick = None
    bid_floor: BidFloor = None


class _ColumnsOutline(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    id: list[str | None] | None = None
    features: dict[str, Raw] = {}
    value_per_click: list[ValuePerClick] | None = None
    bid_floor: list[BidFloor] | None = None


class _RequestOutline(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    candidates: Annotated[list[Raw], Meta(max_length=MAX_CANDIDATES)] | _ColumnsOutline
    id: str | None = None
    user_id: str | None = None
    tmax_ms: Milliseconds | None = None
    context: dict[str, Raw] = {}
    tracking: bool | UnsetType = UNSET


class _Decoders:
    """Decoders of one encoding for the parts of a body."""

    def __init__(self, make: Callable[[Any], Any]) -> None:
        self.request = make(_RequestOutline).decode
        self.candidate = make(_CandidateOutline).decode
        self.value = make(RawFeature).decode
        self.column = make(list[RawFeature]).decode
        self.unread_column = make(list[Raw]).decode


_OF_JSON, _OF_MSGPACK = _Decoders(msgspec.json.Decoder), _Decoders(msgspec.msgpack.Decoder)


def decode_request(
    body: bytes,
    codec: Codec,
    known: KnownFields = ALL_FIELDS,
    max_candidates: int = MAX_CANDIDATES,
) -> PredictRequest:
    """The request in `body`; raises MalformedBody for the encoding, InvalidField for the contents.

    Values under names that are not `known` may be anything in that encoding. More than `max_candidates` may
    be refused here already.
    """
    try:
        if not (len(body) >= LONG_BODY_BYTES and codec is JSON and _is_dense(body)):
            try:
                return codec.decode(body)
            except msgspec.ValidationError:
                pass
        return _read_with_care(body, codec, known, max_candidates)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise malformed(error, codec) from None


def malformed(
    error: msgspec.DecodeError | UnicodeDecodeError | RecursionError, codec: Codec
) -> MalformedBody:
    """The refusal of a body that a decoder does not read."""
    if isinstance(error, RecursionError):
        return MalformedBody(f"the body must be {codec.name} that is not nested so deeply")
    utf8 = ", its strings UTF-8" if isinstance(error, UnicodeDecodeError) else ""
    return MalformedBody(f"the body must be {codec.name}{utf8} ({error})")


def _is_dense(body: bytes) -> bool:
    """Whether a JSON body holds so much in so few bytes that it could take far longer than others."""
    # numpy: bytes.count takes ten times as long. One bit tells "{" from "[", and "E" from "e".
    each = np.frombuffer(body, np.uint8)
    if np.count_nonzero((each | 0x20) == ord("{")) * BYTES_A_CONTAINER > len(body):
        return True
    minus = (each[1:-1] == ord("-")).nonzero()[0]  # of "e-3", by the place of the byte before it
    tiny = ((each[minus] | 0x20) == ord("e")) & (each[minus + 2] == ord("3"))
    return bool(np.count_nonzero(tiny) * BYTES_A_TINY_NUMBER > len(body))


def _read_with_care(body: bytes, codec: Codec, known: KnownFields, limit: int) -> PredictRequest:
    """The same request in several passes, in which nothing is built that no arm knows. Raises DecodeError."""
    decoders = _OF_JSON if codec is JSON else _OF_MSGPACK
    outline: _RequestOutline = _decoded(decoders.request, body, "$")
    context = _values(outline.context, known.context, decoders.value, "$.context")
    candidates: list[Candidate] | CandidateColumns
    if isinstance(outline.candidates, list):
        if len(outline.candidates) > limit:
            refuse_rows(len(outline.candidates), limit)
        candidates = [
            _candidate(raw, decoders, known, f"$.candidates[{row}]")
            for row, raw in enumerate(outline.candidates)
        ]
    else:
        columns = outline.candidates
        features = _columns(columns.features, decoders, known)
        candidates = CandidateColumns(columns.id, features, columns.value_per_click, columns.bid_floor)
    return PredictRequest(candidates, outline.id, outline.user_id, outline.tmax_ms, context, outline.tracking)


def _candidate(raw: Raw, decoders: _Decoders, known: KnownFields, path: str) -> Candidate:
    outline: _CandidateOutline = _decoded(decoders.candidate, raw, path)
    features = _values(outline.features, known.candidate, decoders.value, path + ".features")
    return Candidate(outline.id, features, outline.value_per_click, outline.bid_floor)


def _values(
    raw: dict[str, Raw], known: frozenset[str] | None, decode: Callable[[Raw], Any], path: str
) -> dict[str, Any]:
    """The values of known fields, in order; None for each other name, whose value stays unread."""
    found: dict[str, Any] = dict.fromkeys(raw)
    for name in _known_names(raw, known):
        found[name] = _decoded(decode, raw[name], path, name)
    return found


def _columns(raw: dict[str, Raw], decoders: _Decoders, known: KnownFields) -> dict[str, list[Any]]:
    """The columns. Those that no arm knows stay unread; one of them counts ads if no other column does."""
    path, unread = "$.candidates.features", list[Any]()
    found: dict[str, list[Any]] = dict.fromkeys(raw, unread)
    names = _known_names(raw, known.candidate)
    for name in names:
        found[name] = _decoded(decoders.column, raw[name], path, name)
    if raw and not names:
        first = next(iter(raw))
        found[first] = _decoded(decoders.unread_column, raw[first], path, first)
    return found


def _known_names(raw: dict[str, Raw], known: frozenset[str] | None) -> Sequence[str]:
    return list(raw) if known is None else [name for name in raw if name in known]


def _decoded(decode: Callable[[Any], Any], part: Any, path: str, name: str | None = None) -> Any:
    """`part` of a body, decoded. Raises InvalidField with its path: that of the part, and the path within."""
    try:
        return decode(part)
    except msgspec.ValidationError as error:
        raise invalid_part(error, path, name) from None


def invalid_part(error: msgspec.ValidationError, path: str = "$", name: str | None = None) -> InvalidField:
    """The refusal of a part of a body at `path`, or of what has that name there."""
    text = str(error)
    if name is not None:
        path = f"{path}.{shorten(name, 100)}"
    reason, at, within = text.rpartition(" - at `")  # the last one: a name in the reason may hold the same
    if not at or (text.startswith("Object contains unknown field") and path != "$"):
        return InvalidField(text, path=path)  # of the part itself
    return InvalidField(reason, path=path + within.removesuffix("`").rpartition("$")[2])
