"""Replays the golden rows of a bundle: the same ids, logits and pCTRs, within tolerance."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from service.bundle.calibration import segments_of
from service.bundle.errors import BundleError
from service.bundle.manifest import GoldenOutputs
from service.errors import ServiceError
from service.reading import decode_request, read_plain
from service.scoring.graphs import Graphs
from service.scoring.predictor import Predictor, Probabilities
from service.scoring.rows import BatchRows, RequestRows
from service.wire import JSON, count_rows


async def replay_golden(predictor: Predictor) -> None:
    """Score the golden rows as requests; raises BundleError naming the first that differs."""
    try:
        await _replay(predictor)
    except ServiceError as error:
        raise _difference(predictor, "rows that this service can score", error.message) from error


def check_golden(predictor: Predictor) -> None:
    """Score the first golden row again with every graph, uncounted and past the queue.

    Raises BundleError if its logit differs, or somebody has written to a file that the encoder reads, and
    whatever a graph raises that no longer runs.
    """
    golden, graphs, encoder = predictor.golden, predictor.graphs, predictor.encoder
    encoder.check_unchanged()
    row = golden.rows[0]
    rows = RequestRows(encoder.encode_context(row.context), encoder.encode_candidates([row.candidate]))
    for rows.is_large in {False, graphs.has_shared_context}:
        _check_logits(predictor, graphs.run(BatchRows.of([rows])), golden.variants[predictor.variant])


async def _replay(predictor: Predictor) -> None:
    golden, graphs = predictor.golden, predictor.graphs
    outputs = golden.variants.get(predictor.variant)
    if outputs is None or not golden.rows:
        expected = f"a golden row or more with outputs of variant {predictor.variant}"
        raise _difference(predictor, expected, "none")
    bodies = [
        msgspec.json.encode({"context": row.context, "candidates": [{"features": row.candidate}]})
        for row in golden.rows
    ]
    requests = [decode_request(body, JSON) for body in bodies]
    rows = [predictor.encode(request, count_rows(request.candidates, 1)) for request in requests]
    _check_ids(predictor, rows)
    if predictor.is_native:
        _check_ids(
            predictor, [_by_core(predictor, body) or row for body, row in zip(bodies, rows, strict=True)]
        )
    for is_large in {False, graphs.has_shared_context}:
        for each in rows:
            each.is_large = is_large
        _check_logits(predictor, np.concatenate([graphs.run(BatchRows.of([row])) for row in rows]), outputs)
        if not predictor.depends_on_batch:
            _check_logits(predictor, graphs.run(BatchRows.of(rows)), outputs)
            _check_logits(predictor, np.concatenate([_last_of_two(graphs, row) for row in rows]), outputs)
        _check_pctrs(predictor, np.concatenate(await _score_all(predictor, rows)), outputs)


def _last_of_two(graphs: Graphs, row: RequestRows) -> NDArray[np.float32]:
    """The logit of a row [1] as the second candidate of a request: what the two share reaches it too."""
    request = RequestRows(row.context, row.candidates.repeat(2, axis=0), row.is_large)
    return graphs.run(BatchRows.of([request]))[-1:]


async def _score_all(predictor: Predictor, rows: Sequence[RequestRows]) -> list[Probabilities]:
    """pCTRs of single rows, submitted together as far as the queue has room, so that they share batches.

    Where a row depends on its batch, each goes alone.
    """
    found: list[Probabilities] = []
    at_once = 1 if predictor.depends_on_batch else predictor.max_queued_rows
    for start in range(0, len(rows), at_once):
        found += await asyncio.gather(*[predictor.score(row) for row in rows[start : start + at_once]])
    return found


def _by_core(predictor: Predictor, body: bytes) -> RequestRows | None:
    """The row by the native core, if it is plain."""
    plain = read_plain(body, JSON, 1)
    return None if plain is None else predictor.encode_plain(plain)


def _check_ids(predictor: Predictor, rows: Sequence[RequestRows]) -> None:
    ids = predictor.encoder.join(
        np.stack([each.context for each in rows]), np.concatenate([each.candidates for each in rows])
    )
    for index, (found, expected) in enumerate(zip(ids.tolist(), predictor.golden.ids, strict=True)):
        if tuple(found) != tuple(expected):
            raise _difference(predictor, f"row {index} to give ids {list(expected)}", str(found))


def _check_logits(predictor: Predictor, logits: NDArray[np.float32], outputs: GoldenOutputs) -> None:
    """Of the first golden rows, as many as there are `logits`."""
    differences = np.abs(logits.astype(np.float64) - np.array(outputs.logits[: len(logits)]))
    for index in np.flatnonzero(~(differences <= outputs.logit_tolerance)):
        expected, tolerance = outputs.logits[index], outputs.logit_tolerance
        raise _difference(
            predictor, f"row {index} to give logit {expected} within {tolerance}", str(float(logits[index]))
        )


def _check_pctrs(predictor: Predictor, pctrs: Probabilities, outputs: GoldenOutputs) -> None:
    # A row's pCTR grows with its logit: within the logit's tolerance it is between those of both ends.
    calibrator, logits = predictor.calibrator, np.array(outputs.logits)
    segments = segments_of(calibrator, predictor.encoder.schema, np.array(predictor.golden.ids, np.int32))
    lowest = calibrator.pctr(logits - outputs.logit_tolerance, segments) - 1e-9
    highest = calibrator.pctr(logits + outputs.logit_tolerance, segments) + 1e-9
    for source, values in (("give", pctrs), ("state", np.array(outputs.pctrs))):
        for index in np.flatnonzero(~((values >= lowest) & (values <= highest))):
            raise _difference(
                predictor,
                f"row {index} to {source} a pCTR from {lowest[index]} to {highest[index]}",
                str(float(values[index])),
            )


def _difference(predictor: Predictor, expected: str, found: str) -> BundleError:
    return BundleError(
        f"{predictor.folder}/golden.json",
        expected,
        found,
        "build the bundle again on this machine's versions",
    )
