"""Makes the graphs that compute a request's context once, compares them with the plain ones, times both.

It knows variants, rows of the log and the manifest; `graph.shared_context` does the rewriting.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from export.data.encoded import Part
from export.errors import ExportError
from export.graph.onnx import INPUT, describe
from export.graph.runtime import (
    graph_scorer,
    microseconds_a_row,
    open_session,
    request_feeds,
    request_scorer,
)
from export.graph.shared_context import share_context, with_one_index
from export.graph.tables import tables_in, without_tables
from export.stages.variants import Variant, graph_name
from export.stages.work import Say
from service.bundle.manifest import Graph, SharedContext
from service.bundle.schema import Role, Schema

TOLERANCE = 1e-5
"""The largest difference of logits that counts as rounding, relative to the largest |logit| or 1."""

MARGIN = 0.3
"""The share by which the graph with a shared context must be faster in these timings, whose caches are warm.

It has more nodes, and in a service, which does other work between two batches, cold caches cost it more.
"""

NOISE = 0.05
"""Two timings that differ by less may be equal."""

USUAL_CANDIDATES = 100
CHECKED_REQUESTS, CHECKED_ROWS, FEWEST_ROWS = 24, 1024, 96
CANDIDATES = (1, 2, 4, 10, 30, 100, 500)
# A service that has nothing to spare runs batches of several requests; one that has, does not mind.
TIMED_REQUESTS, TIMED_ROWS = 8, 256
Ids = NDArray[np.int32]


@dataclass(frozen=True)
class Described:
    """A graph's entry in the manifest, and its shared-context graph, if one is worth shipping."""

    graph: Graph
    shared: bytes | None = None


def describe_graphs(variants: Mapping[str, Variant], part: Part, *, say: Say = print) -> dict[str, Described]:
    """Describes every variant that ships; `part` gives the rows to check and to time with."""
    return {name: _described(variant, part, say) for name, variant in variants.items()}


def _described(variant: Variant, part: Part, say: Say) -> Described:
    graph = describe(variant.graph, graph_name(variant.name), variant.name, tables_in(variant.graph))
    if graph.is_batch_dependent:  # a graph of other batches would have other logits
        return Described(graph)
    is_context = context_columns(variant.schema)
    ids = variant.ids(np.array(part.ids[: max(CHECKED_ROWS, *CANDIDATES)]))
    checked = checked_shared_graph(
        variant.graph,
        ids,
        is_context,
        lambda why: say(f"warning: {variant.name} has no shared-context graph: {why}"),
    )
    if checked is None:
        return Described(graph)
    ids[:, is_context] = ids[0, is_context]  # the plain graph, too, is timed on the rows of such requests
    times = _times(variant.graph, checked.graph, ids, is_context)
    from_candidates = worthwhile_from(times["plain"], times["shared"])
    if from_candidates is None:
        say(
            f"{variant.name} has no shared-context graph: from no number of candidates on is it faster by "
            f"{MARGIN:.0%} (at {USUAL_CANDIDATES}, {_at_usual(times)})"
        )
        return Described(graph)
    say(
        f"shared context of {variant.name}: logits within {checked.difference:.2g}; from {from_candidates} "
        f"candidates on; at {USUAL_CANDIDATES}, {_at_usual(times)}"
    )
    shared = without_tables(checked.graph, variant.graph)
    record = _record(variant.name, shared, from_candidates, times["shared"])
    return Described(msgspec.structs.replace(graph, shared_context=record), shared)


class CheckedGraph(NamedTuple):
    """A shared-context graph that may serve, and its `largest_difference` from the plain one."""

    graph: bytes
    difference: float


def checked_shared_graph(
    plain: bytes, ids: Ids, is_context: NDArray[np.bool_], warn: Say
) -> CheckedGraph | None:
    """The shared-context graph of a plain one, checked on ids [n, columns]; None if there is none to serve.

    `warn` gets the reason if that is no property of the model.
    """
    try:
        shared = share_context(plain, is_context.tolist())
        return None if shared is None else _checked(plain, shared, ids, is_context)
    except Exception as error:  # an unknown operator must not stop the export: the plain graph serves too
        warn(" ".join(str(error).split()))
        return None


def _times(
    plain: bytes, shared: bytes, ids: Ids, is_context: NDArray[np.bool_]
) -> dict[str, dict[str, float]]:
    """Microseconds a row of both graphs, by the candidates of a request, in batches of several requests."""
    requests = {size: min(TIMED_REQUESTS, max(1, TIMED_ROWS // size)) for size in CANDIDATES}
    by_rows = {size * count: count for size, count in requests.items()}
    scorers = {"plain": graph_scorer(plain), "shared": request_scorer(shared, is_context, by_rows)}
    times = microseconds_a_row(scorers, ids, tuple(by_rows))
    return {
        name: {str(size): found[str(size * count)] for size, count in requests.items()}
        for name, found in times.items()
    }


def _record(name: str, shared: bytes, from_candidates: int, times: dict[str, float]) -> SharedContext:
    described = describe(shared, f"model.{name}.shared.onnx", name)
    return SharedContext(
        file=described.file,
        inputs=described.inputs,
        outputs=described.outputs,
        from_candidates=from_candidates,
        microseconds_a_row=times,
    )


def _at_usual(times: Mapping[str, Mapping[str, float]]) -> str:
    shared, plain = (times[kind][str(USUAL_CANDIDATES)] for kind in ("shared", "plain"))
    return f"{shared:.2f} us a row, not {plain:.2f}"


def _checked(plain: bytes, shared: bytes, ids: Ids, is_context: NDArray[np.bool_]) -> CheckedGraph:
    """The graph in the form that takes one index for a request, if that can serve, else as it is.

    Raises ExportError where neither can.
    """
    with suppress(Exception):  # ONNX Runtime's have no common base class: an operator does not broadcast
        with_one = with_one_index(shared)
        return CheckedGraph(with_one, _checked_difference(plain, with_one, ids, is_context))
    return CheckedGraph(shared, _checked_difference(plain, shared, ids, is_context))


def _checked_difference(plain: bytes, shared: bytes, ids: Ids, is_context: NDArray[np.bool_]) -> float:
    """See `largest_difference`. Raises ExportError for a graph that must not serve."""
    difference = largest_difference(plain, shared, ids, is_context)
    if not difference <= TOLERANCE:
        raise ExportError(f"its logits would be off by {difference:.2g} of the largest")
    if not has_the_same_bits_alone(shared, ids, is_context):
        raise ExportError("its logits would depend on the batch")
    return difference


def context_columns(schema: Schema) -> NDArray[np.bool_]:
    """Which columns of a row of ids are the context's [columns]."""
    roles = [field.role is Role.CONTEXT for field in schema.fields for _ in range(field.max_length)]
    return np.array(roles, np.bool_)


def worthwhile_from(plain: Mapping[str, float], shared: Mapping[str, float]) -> int | None:
    """The smallest number of candidates from which on the shared graph serves; None if it never should.

    It must be faster by MARGIN there and at every larger size up to USUAL_CANDIDATES. Above, it must only not
    be slower by NOISE: one noisy median of a rare size must not rule it out for all others.
    """
    least: int | None = None
    for size in sorted(map(int, plain), reverse=True):
        share = shared[str(size)] / plain[str(size)]
        is_faster = share <= 1.0 - MARGIN
        if size == 1 or not (is_faster or (size > USUAL_CANDIDATES and share <= 1.0 + NOISE)):
            break
        if is_faster:
            least = size
    return least


def largest_difference(plain: bytes, shared: bytes, ids: Ids, is_context: NDArray[np.bool_]) -> float:
    """The largest difference of logits, as TOLERANCE is, over requests of many sizes in one batch."""
    requests = _requests(ids, is_context)
    expected = open_session(plain).run(None, {INPUT: np.concatenate(requests)})[0]
    session = open_session(shared)
    found = session.run(None, request_feeds(requests, is_context, session))[0]
    return float(np.abs(found - expected).max() / max(1.0, np.abs(expected).max()))


def has_the_same_bits_alone(shared: bytes, ids: Ids, is_context: NDArray[np.bool_]) -> bool:
    """Whether a request, and its last candidate, gets the same bits alone as in a batch with all others."""
    session, requests = open_session(shared), _requests(ids, is_context)

    def logits(*chosen: Ids) -> NDArray[np.int32]:
        found: NDArray[np.float32] = session.run(None, request_feeds(list(chosen), is_context, session))[0]
        return found.view(np.int32)

    together = np.split(logits(*requests), np.cumsum([len(request) for request in requests])[:-1])
    return all(
        np.array_equal(logits(request), expected) and np.array_equal(logits(request[-1:]), expected[-1:])
        for request, expected in zip(requests, together, strict=True)
    )


def _requests(ids: Ids, is_context: NDArray[np.bool_]) -> list[Ids]:
    """The rows split into requests of many sizes, each with the context of its first row.

    Few rows are repeated: requests of one row each would show nothing of what the rows of one share.
    """
    ids = np.resize(ids, (max(len(ids), FEWEST_ROWS), ids.shape[1]))
    draw = np.random.default_rng(0)
    ends = np.sort(1 + draw.choice(len(ids) - 1, CHECKED_REQUESTS - 1, replace=False))
    requests = np.split(ids, ends)
    for request in requests:
        request[:, is_context] = request[0, is_context]
    return requests
