"""Ids of any fields, and the check that a graph and its shared-context form agree."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from export.graph.runtime import open_session, run_graph
from export.graph.shared_context import (
    CANDIDATE_IDS,
    CONTEXT_IDS,
    REQUEST_INDEX,
    share_context,
    with_one_index,
)
from export.stages.shared_graphs import has_the_same_bits_alone
from models.fields import Field

TOLERANCE = 1e-5
CANDIDATES = (1, 5, 0, 17, 2, 40, 3)  # of each request
session_of = functools.cache(open_session)


def random_ids(fields: tuple[Field, ...], rows: int, seed: int = 0) -> NDArray[np.int32]:
    """Random ids; sequences of all lengths, including empty ones."""
    random = np.random.default_rng(seed)
    columns = []
    for field in fields:
        ids = random.integers(0, field.cardinality, (rows, field.width))
        lengths = random.integers(0, field.width + 1, (rows, 1))
        columns.append(ids if field.width == 1 else np.where(np.arange(field.width) < lengths, ids, 0))
    return np.concatenate(columns, axis=1).astype(np.int32)


def columns_of_context(fields: Sequence[Field]) -> NDArray[np.bool_]:
    return np.array([field.role == "context" for field in fields for _ in range(field.width)])


def score(
    graph: bytes,
    is_context: NDArray[np.bool_],
    requests: NDArray[np.int32],
    rows: NDArray[np.int32],
    index: ArrayLike,
) -> NDArray[np.float32]:
    """Logits of rows [n, columns], whose context is that of requests [m, columns] at index [n]."""
    logits: NDArray[np.float32] = session_of(graph).run(
        None,
        {
            CONTEXT_IDS: np.ascontiguousarray(requests[:, is_context]),
            CANDIDATE_IDS: np.ascontiguousarray(rows[:, ~is_context]),
            REQUEST_INDEX: np.asarray(index, np.int32),
        },
    )[0]
    return logits


def takes_one_index(with_one: bytes, is_context: NDArray[np.bool_], ids: NDArray[np.int32]) -> bool:
    """Whether the export would say so of a graph: not of one that fails, or gives other logits (star)."""
    try:
        return has_the_same_bits_alone(with_one, ids, is_context)
    except Exception:  # ONNX Runtime's errors have no common base class
        return False


def check_shared(
    graph: bytes, is_context: NDArray[np.bool_], fields: Sequence[Field], tolerance: float = TOLERANCE
) -> bytes:
    """Checks that a graph and its shared form agree, and that a row's bits are the same in any batch.

    With one index for all rows of a request, the bits are the same too where the export would say so.
    """
    shared = share_context(graph, is_context.tolist())
    assert shared is not None
    with_one = with_one_index(shared)
    takes_one = takes_one_index(with_one, is_context, random_ids(tuple(fields), 200, seed=4))
    index = np.repeat(np.arange(len(CANDIDATES)), CANDIDATES)
    requests = random_ids(tuple(fields), len(CANDIDATES), seed=5)
    rows = random_ids(tuple(fields), len(index), seed=6)
    logits = score(shared, is_context, requests, rows, index)
    plain = run_graph(graph, np.where(is_context, requests[index], rows))
    assert logits.shape == plain.shape
    np.testing.assert_allclose(logits, plain, rtol=0, atol=tolerance)
    assert logits.std() > 1e-4
    for request in range(len(CANDIDATES)):
        of_request = index == request
        if not of_request.any():
            continue
        alone = score(shared, is_context, requests[[request]], rows[of_request], np.zeros(of_request.sum()))
        assert alone.tobytes() == logits[of_request].tobytes()
        if takes_one:
            broadcast = score(with_one, is_context, requests[[request]], rows[of_request], [0])
            assert broadcast.tobytes() == alone.tobytes()
        one_row = score(shared, is_context, requests[[request]], rows[of_request][-1:], [0])
        assert one_row.tobytes() == logits[of_request][-1:].tobytes()
    return shared
