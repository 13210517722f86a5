"""Checks that servers give equal answers to the same bid requests; it does not know how they make them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from loadtest.processes.server import Server

# A rival's float32 graph may round differently with the number of rows in a batch; nothing else may differ.
PCTR_TOLERANCE, BID_TOLERANCE = 1e-5, 2e-6

Answer = dict[str, Any]


class WrongAnswer(RuntimeError):
    """A server did not answer with status 200, or answered differently."""


def ask(server: Server, bodies: Sequence[bytes], at_once: int = 1) -> list[Answer]:
    """The answers to `bodies`, in their order, `at_once` of them asked at once. Raises WrongAnswer."""

    def one(body: bytes) -> Answer:
        try:
            status, answer = server.post(body)
            if status != 200:
                raise ValueError(f"{status}: {answer[:200]!r}")
            found: Answer = server.route.read(answer)
        except (OSError, ValueError, LookupError) as error:
            raise WrongAnswer(f"{server.url}{server.route.path} must answer 200 (got {error})") from None
        return found

    with ThreadPoolExecutor(at_once) as threads:
        return list(threads.map(one, bodies))


def compare(expected: Sequence[Answer], found: Sequence[Answer]) -> int:
    """The number of candidates compared. Raises WrongAnswer unless ids, pCTRs and bids agree."""
    rows = 0
    for left, right in zip(expected, found, strict=True):
        if left["id"] != right["id"] or len(left["results"]) != len(right["results"]):
            raise WrongAnswer(
                f"answers must belong to the same request (got {left['id']} with {len(left['results'])} "
                f"results and {right['id']} with {len(right['results'])})"
            )
        for ours, theirs in zip(left["results"], right["results"], strict=True):
            if ours["id"] != theirs["id"] or not _agree(ours, theirs):
                raise WrongAnswer(f"answers must be the same (got {ours} and {theirs})")
            rows += 1
    return rows


def _agree(left: Answer, right: Answer) -> bool:
    if not math.isclose(left["pctr"], right["pctr"], rel_tol=PCTR_TOLERANCE):
        return False
    bids = left["bid"], right["bid"]
    if None in bids:  # a bid within rounding of its floor may be made by one and not by the other
        return bids == (None, None)
    return math.isclose(*bids, rel_tol=PCTR_TOLERANCE, abs_tol=BID_TOLERANCE)
