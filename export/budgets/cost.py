"""What a graph costs: microseconds of a candidate in a request, beside the dense graph's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from export.data.encoded import Part
from export.graph.runtime import Scorer, graph_scorer, microseconds_a_row, request_scorer
from export.stages.shared_graphs import MARGIN, checked_shared_graph, context_columns
from export.stages.variants import Variant
from export.stages.work import silent

CHECKED_ROWS = 1024


class Times(NamedTuple):
    """Microseconds a candidate of two graphs, timed alternately."""

    variant: float
    dense: float


def time_beside(variant: Variant, dense: Variant, part: Part, candidates: int) -> Times:
    """The time of a request of so many candidates by each graph, in the faster of its forms."""
    return Times(**microseconds_a_candidate({"variant": variant, "dense": dense}, part, candidates))


def microseconds_a_candidate(
    variants: Mapping[str, Variant], part: Part, candidates: int
) -> dict[str, float]:
    """Microseconds a candidate of each graph, timed in turns, in a request of so many rows of its own ids.

    As in a bundle: the form that computes the context once serves where it is faster by a margin.
    """
    scorers: dict[str, Scorer] = {}
    for name, one in variants.items():
        scorers |= {f"{name} {form}": score for form, score in _forms(one, part, candidates).items()}
    rows = np.empty((candidates, 1), np.int32)  # each graph has its own ids
    found = microseconds_a_row(scorers, rows, (candidates,))
    times = {name: each[str(candidates)] for name, each in found.items()}
    return {name: _faster(times, name) for name in variants}


def _faster(times: dict[str, float], name: str) -> float:
    plain, shared = times[f"{name} plain"], times.get(f"{name} shared")
    return plain if shared is None or shared > (1.0 - MARGIN) * plain else shared


def _forms(variant: Variant, part: Part, candidates: int) -> dict[str, Scorer]:
    """Callables that score one request of the variant's own ids, whatever they are given."""
    is_context = context_columns(variant.schema)
    ids = variant.ids(np.array(part.ids[: max(CHECKED_ROWS, candidates)]))
    request = np.resize(ids, (candidates, ids.shape[1]))
    request[:, is_context] = request[0, is_context]
    forms = {"plain": _fixed(graph_scorer(variant.graph), request)}
    checked = checked_shared_graph(variant.graph, ids, is_context, silent)
    if checked is not None:
        forms["shared"] = _fixed(request_scorer(checked.graph, is_context), request)
    return forms


def _fixed(score: Scorer, ids: NDArray[np.int32]) -> Scorer:
    return lambda _: score(ids)
