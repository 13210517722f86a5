"""A traceparent is read as W3C Trace Context says, and what is none is as if there was no header."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from service.tracing.context import MAX_STATE_BYTES, Parent, parent_of

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
GOOD = f"00-{TRACE}-{SPAN}-01"


@given(st.integers(1, 2**128 - 1), st.integers(1, 2**64 - 1), st.integers(0, 255))
@example(1, 1, 0)
def test_what_is_written_is_read(trace: int, span: int, flags: int) -> None:
    found = parent_of({b"traceparent": f"00-{trace:032x}-{span:016x}-{flags:02x}".encode()})
    assert found == Parent(trace, span, flags, b"")
    assert found.is_sampled == (flags % 2 == 1)


@pytest.mark.parametrize(
    "value",
    [
        "",
        GOOD[:-1],
        f"{GOOD}0",
        f"{GOOD}-",  # version 00 has no more fields
        f"{GOOD},{GOOD}",  # two headers
        f"ff{GOOD[2:]}",
        f"0{GOOD[2:]}",
        GOOD.upper(),
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00_{TRACE}_{SPAN}_01",
        f"00-{TRACE}-{SPAN}-0g",
        f"cc{GOOD[2:]}.more",
        f" {GOOD}",
        f"{GOOD}\n",
    ],
)
def test_what_is_malformed_is_no_parent(value: str) -> None:
    assert parent_of({b"traceparent": value.encode(), b"tracestate": b"a=1"}) is None


@given(st.binary(max_size=80))
def test_no_bytes_are_an_error(value: bytes) -> None:
    parent_of({b"traceparent": value, b"tracestate": value})


def test_later_versions_are_read_as_far_as_they_are_known() -> None:
    for value in (f"cc{GOOD[2:]}", f"01{GOOD[2:]}-what-the-future-will-be-like"):
        assert parent_of({b"traceparent": value.encode()}) == Parent(int(TRACE, 16), int(SPAN, 16), 1, b"")


def test_a_state_is_kept_unless_it_is_long() -> None:
    for size, kept in ((MAX_STATE_BYTES, MAX_STATE_BYTES), (MAX_STATE_BYTES + 1, 0)):
        found = parent_of({b"traceparent": GOOD.encode(), b"tracestate": b"a=" + b"x" * (size - 2)})
        assert found is not None
        assert len(found.state) == kept
    assert parent_of({b"tracestate": b"a=1"}) is None
