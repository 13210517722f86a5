"""Heads of requests: which are remembered, and what headers that come twice say."""

from __future__ import annotations

import pytest

from service.http.heads import PlainHeads, headers_by_name

TRACE = "traceparent: 00-{:032x}-00f067aa0ba902b7-01\r\n"
HEAD = "POST /predict HTTP/1.1\r\nhost: test\r\ncontent-length: 2\r\n{}\r\n"


@pytest.mark.parametrize("more", [TRACE, "x-arm: {}\r\n"])
def test_a_head_that_never_comes_again_pushes_no_other_out(more: str) -> None:
    heads = PlainHeads(1000)
    for number in (1, 2, 3):
        found = heads.of(HEAD.format(more.format(number)).encode())
        assert found is not None
        assert found.length == 2
    assert len(heads) == (0 if more == TRACE else 3)


def test_of_headers_that_come_twice_the_last_counts_but_those_of_a_trace_are_joined() -> None:
    lines = [(b"x-arm", b"a"), (b"tracestate", b"v=1"), (b"x-arm", b"b"), (b"tracestate", b"w=2")]
    assert headers_by_name(lines) == {b"x-arm": b"b", b"tracestate": b"v=1,w=2"}
    assert headers_by_name(iter(lines[:2])) == dict(lines[:2])
    parents = [(b"traceparent", b"one"), (b"traceparent", b"two")]
    assert headers_by_name(parents) == {b"traceparent": b"one,two"}  # which is malformed
