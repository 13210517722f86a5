"""A bid request in each form of the interface: rows or columns, JSON or MessagePack."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from loadtest.processes.server import Route
from loadtest.traffic.answers import Answer

Request = dict[str, Any]


@dataclass(frozen=True)
class Form:
    """How a body is encoded, and its answer decoded."""

    name: str
    is_columns: bool
    content_type: str
    encode: Callable[[Any], bytes]
    decode: Callable[[bytes], Any]

    def __str__(self) -> str:
        return self.name

    def body_of(self, request: Request) -> bytes:
        """The body of a request whose candidates are rows."""
        if self.is_columns:
            request = {**request, "candidates": columns_of(request["candidates"])}
        return self.encode(request)

    @property
    def route(self) -> Route:
        """The route of such bodies; answers are read as rows."""
        return Route(headers={"Content-Type": self.content_type}, read=self._read)

    def _read(self, answer: bytes) -> Answer:
        found: Answer = self.decode(answer)
        if self.is_columns:
            columns = found["results"]
            rows = zip(*columns.values(), strict=True)
            found["results"] = [dict(zip(columns, row, strict=True)) for row in rows]
        return found


_JSON = ("application/json", msgspec.json.encode, msgspec.json.decode)
_MSGPACK = ("application/msgpack", msgspec.msgpack.encode, msgspec.msgpack.decode)
_ALL = (
    Form("rows-json", False, *_JSON),
    Form("columns-json", True, *_JSON),
    Form("rows-msgpack", False, *_MSGPACK),
    Form("columns-msgpack", True, *_MSGPACK),
)
FORMS = {form.name: form for form in _ALL}


def columns_of(candidates: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Candidates as columns: null where one of them lacks what another has."""
    names = dict.fromkeys(name for candidate in candidates for name in candidate)
    columns: dict[str, Any] = {name: [each.get(name) for each in candidates] for name in names}
    if "features" in columns:
        features = [each or {} for each in columns["features"]]
        fields = dict.fromkeys(name for each in features for name in each)
        columns["features"] = {name: [each.get(name) for each in features] for name in fields}
    return columns
