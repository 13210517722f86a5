"""The trace that a request belongs to, as its headers say (W3C Trace Context); it knows no span.

What does not follow the specification is as if it was not there: the request begins a trace of its own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

PARENT, STATE = b"traceparent", b"tracestate"
# So many characters must be passed on; of a longer state nothing is kept.
MAX_STATE_BYTES = 512
SAMPLED = 0x01
# Version ff is forbidden, and so are ids of zeros. Later versions may say more behind another dash.
_PARENT = re.compile(
    rb"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.DOTALL
)


class Parent(NamedTuple):
    """The span that has caused a request, and what its trace carries along."""

    trace_id: int
    span_id: int
    flags: int
    state: bytes

    @property
    def is_sampled(self) -> bool:
        """Whether the caller keeps the trace."""
        return bool(self.flags & SAMPLED)


def parent_of(headers: Mapping[bytes, bytes]) -> Parent | None:
    """The parent that headers name, None without one; the names are in lower case."""
    value = headers.get(PARENT)
    found = None if value is None else _PARENT.fullmatch(value)
    if found is None or (found[1] == b"00" and found[5] is not None):
        return None
    state = headers.get(STATE, b"")
    return Parent(
        int(found[2], 16),
        int(found[3], 16),
        int(found[4], 16),
        state if len(state) <= MAX_STATE_BYTES else b"",
    )
