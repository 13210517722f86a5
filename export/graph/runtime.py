"""Runs and times graphs with the options that the service runs them with.

It does not know what a graph computes, and needs PyTorch only to time a model of it.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

# Read at import: the official builds (1.31) have a thread that reports to Microsoft.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import onnxruntime

from service.bundle import runtime_options
from service.bundle.manifest import SHARED_INPUTS

if TYPE_CHECKING:
    from torch import nn

Ids = NDArray[np.int32]
Scorer = Callable[[NDArray[np.int32]], object]
BATCHES = (1, 64, 1024)
BURST_SECONDS = 0.004


def session_options() -> onnxruntime.SessionOptions:
    """The service's options, to add to."""
    return runtime_options.session_options(onnxruntime)


def open_session(graph: bytes) -> onnxruntime.InferenceSession:
    """A session over the bytes of a graph."""
    return onnxruntime.InferenceSession(graph, session_options(), providers=["CPUExecutionProvider"])


def run_graph(graph: bytes, ids: NDArray[np.int32], batch_size: int = 4096) -> NDArray[np.float32]:
    """ids [n, columns] -> logits [n], scored `batch_size` rows at a time."""
    return run_session(open_session(graph), ids, batch_size)


def run_session(
    session: onnxruntime.InferenceSession, ids: NDArray[np.int32], batch_size: int = 4096
) -> NDArray[np.float32]:
    """The same by an open session."""
    name = session.get_inputs()[0].name
    starts = range(0, len(ids), batch_size)
    batches = (np.ascontiguousarray(ids[start : start + batch_size]) for start in starts)
    logits = [session.run(None, {name: batch})[0] for batch in batches]
    return np.concatenate([np.empty(0, np.float32), *logits])


def graph_scorer(graph: bytes) -> Scorer:
    """A callable ids -> logits over an open session, for timing."""
    session = open_session(graph)
    name, outputs = session.get_inputs()[0].name, [session.get_outputs()[0].name]
    run = runtime_options.quick_run(onnxruntime, session)
    return lambda ids: run(outputs, {name: ids})


def own_rows_scorer(graph: bytes, ids: NDArray[np.int32]) -> Scorer:
    """A callable that takes rows of any graph's ids and scores as many of `ids`, this graph's own.

    So graphs that number values differently are timed in one run.
    """
    return of_own_rows(graph_scorer(graph), ids, BATCHES)


def of_own_rows(score: Scorer, ids: NDArray[np.int32], batches: Sequence[int]) -> Scorer:
    """The same for any scorer, in batches of these sizes."""
    own = {rows: np.ascontiguousarray(np.resize(ids, (rows, ids.shape[1]))) for rows in batches}
    return lambda given: score(own[len(given)])


def request_scorer(
    graph: bytes, is_context: NDArray[np.bool_], requests: Mapping[int, int] | None = None
) -> Scorer:
    """A scorer that takes ids [n, columns] as `requests[n]` requests of the same size, or as one.

    Each request has the context of its first row.
    """
    session = open_session(graph)
    outputs = [session.get_outputs()[0].name]
    run = runtime_options.quick_run(onnxruntime, session)
    splits = requests or {}
    inputs: dict[int, dict[str, Ids]] = {}

    def score(ids: Ids) -> object:
        if len(ids) not in inputs:  # the service keeps the parts apart, so splitting is not timed
            parts = np.split(ids, splits.get(len(ids), 1))
            inputs[len(ids)] = request_feeds(parts, is_context, session)
        return run(outputs, inputs[len(ids)])

    return score


def request_feeds(
    requests: Sequence[Ids], is_context: NDArray[np.bool_], session: onnxruntime.InferenceSession
) -> dict[str, Ids]:
    """The inputs of a shared-context graph for requests [rows, columns]; the first row has the context.

    As the service does, one request gives a single index if the graph takes it.
    """
    is_one = len(requests) == 1 and runtime_options.takes_one_index(session)
    sizes = [1] if is_one else [len(request) for request in requests]
    rows = np.concatenate(requests)
    values = (
        np.ascontiguousarray(np.stack([request[0, is_context] for request in requests])),
        np.ascontiguousarray(rows[:, ~is_context]),
        np.repeat(np.arange(len(requests), dtype=np.int32), sizes),
    )
    return dict(zip(SHARED_INPUTS, values, strict=True))


def torch_scorer(model: nn.Module) -> Scorer:
    """A callable ids -> logits over a PyTorch model, for timing."""
    import torch

    model.eval()

    def score(ids: NDArray[np.int32]) -> object:
        with torch.inference_mode():
            return model(torch.from_numpy(ids))

    return score


def microseconds_a_row(
    candidates: Mapping[str, Scorer],
    ids: NDArray[np.int32],
    batches: Sequence[int] = BATCHES,
    *,
    rounds: int = 11,
    burst_seconds: float | None = None,
) -> dict[str, dict[str, float]]:
    """Microseconds a row of each candidate by batch size ("1", "64", ...): medians of interleaved rounds.

    Each round runs one burst of calls per candidate, so that other load on the machine affects all alike,
    every other round in reverse: what each of a pair's bursts comes after, or a drift, favours neither.
    The clock is this thread's CPU time, which excludes waiting for a busy core. PyTorch runs on one thread
    meanwhile. `ids` is repeated when it has fewer rows than a batch.
    """
    burst_seconds = BURST_SECONDS if burst_seconds is None else burst_seconds
    result: dict[str, dict[str, float]] = {name: {} for name in candidates}
    with one_torch_thread():
        for rows in batches:
            batch = np.ascontiguousarray(np.resize(ids, (rows, ids.shape[1])))
            calls = {name: _calls_a_burst(score, batch, burst_seconds) for name, score in candidates.items()}
            bursts: dict[str, list[float]] = {name: [] for name in candidates}
            there = list(candidates.items())
            for name, score in itertools.chain.from_iterable(
                there if number % 2 == 0 else reversed(there) for number in range(rounds)
            ):
                bursts[name].append(_seconds_a_call(score, batch, calls[name]))
            for name, seconds in bursts.items():
                result[name][str(rows)] = round(statistics.median(seconds) / rows * 1e6, 3)
    return result


def _calls_a_burst(score: Scorer, batch: NDArray[np.int32], burst_seconds: float) -> int:
    _seconds_a_call(score, batch, 3)  # the first calls allocate
    return max(1, int(burst_seconds / _seconds_a_call(score, batch, 3)))


def _seconds_a_call(score: Scorer, batch: NDArray[np.int32], calls: int) -> float:
    start = time.thread_time()
    for _ in range(calls):
        score(batch)
    return (time.thread_time() - start) / calls


@contextlib.contextmanager
def one_torch_thread() -> Iterator[None]:
    """PyTorch has one thread within, if it is there: small tensors only wait for a second one."""
    torch = sys.modules.get("torch")
    if torch is None:  # nothing here runs a model of it
        yield
        return
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
