"""The job of every rival: body -> ids -> logits -> pCTR -> bid -> body; it does not know its server.

Rivals get the contract's encoder and calibration, and the plain graph with Bidlight's session options, so
that the comparison is about serving: HTTP, decoding, batching, scheduling. Bidlight scores large requests
with another graph, which computes their context once; `bidlight_plain` uses the plain one for all. The job
runs in the rival's environment, which has numpy, msgspec and onnxruntime, in the repository's folder.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnxruntime
from numpy.typing import NDArray

from loadtest.rivals.servers.known_ads import KnownAds
from service.bundle.calibration import segments_of
from service.bundle.runtime_options import session_options
from service.bundle.store import load_bundle

ARM = "control"
WARM_UP_ROWS = (1, 2, 8, 32, 128)


class Candidate(msgspec.Struct, gc=False):
    """One ad to score."""

    id: str | None = None
    features: dict[str, Any] = {}
    value_per_click: float | None = None
    bid_floor: float | None = None


class Request(msgspec.Struct, gc=False):
    """A bid request, decoded by msgspec: the fastest decoder for a Python server."""

    candidates: list[Candidate]
    id: str | None = None
    user_id: str | None = None
    context: dict[str, Any] = {}


class Result(msgspec.Struct, gc=False):
    """One candidate's answer."""

    id: str | None
    pctr: float
    bid: float | None


class Answer(msgspec.Struct, gc=False):
    """The answer to one bid request."""

    id: str | None
    arm: str
    bundle: str
    results: list[Result]


class Job:
    """A bundle, loaded and warm; with a file of `ads`, candidates come by id alone, without features."""

    decode = staticmethod(msgspec.json.Decoder(Request).decode)
    encode = staticmethod(msgspec.json.Encoder().encode)

    def __init__(self, folder: Path | str, ads: Path | str | None = None) -> None:
        bundle = load_bundle(Path(folder))
        variant = bundle.manifest.serving_variant
        self.bundle = f"{bundle.manifest.name}@{bundle.manifest.version}"
        self._encoder = bundle.encoder
        self._known_ads = KnownAds(ads, bundle.encoder) if ads else None
        self._calibrator, self._schema = bundle.calibrators[variant], bundle.schema
        self._session = _session(bundle.graphs[variant])
        for rows in WARM_UP_ROWS:
            self.pctrs(np.zeros((rows, bundle.schema.columns), np.int32))

    def answer(self, body: bytes) -> bytes:
        """One request alone."""
        return self.answer_batch([body])[0]

    def answer_batch(self, bodies: Sequence[bytes]) -> list[bytes]:
        """Several requests with one run of the graph, answers in their order."""
        return [self.encode(answer) for answer in self.answers([self.decode(body) for body in bodies])]

    def answers(self, requests: Sequence[Request]) -> list[Answer]:
        """The same between decoding and encoding."""
        return [
            self.answer_of(request, pctrs)
            for request, pctrs in zip(requests, self.score(requests), strict=True)
        ]

    def score(self, requests: Sequence[Any]) -> list[list[float]]:
        """The pCTRs of every candidate of every request, with one run of the graph.

        A request is anything with `context` and `candidates`: a struct, or a pydantic model.
        """
        ids = [self.ids(request) for request in requests]
        pctrs = self.pctrs(ids[0] if len(ids) == 1 else np.concatenate(ids)).tolist()
        ends = itertools.accumulate(len(request.candidates) for request in requests)
        return [pctrs[start:end] for start, end in itertools.pairwise([0, *ends])]

    def ids(self, request: Any) -> NDArray[np.int32]:
        """ids [candidates, columns] of a request."""
        if self._known_ads is None:
            features = [each.features for each in request.candidates]
            return self._encoder.encode_request(request.context, features)
        context = self._encoder.encode_context(request.context)
        return self._encoder.join(context, self._known_ads.encode(request.candidates))

    def pctrs(self, ids: NDArray[np.int32]) -> NDArray[np.float64]:
        """pCTRs [n] of ids [n, columns]."""
        logits = self._session.run(["logits"], {"ids": ids})[0]
        return self._calibrator.pctr(logits, segments_of(self._calibrator, self._schema, ids))

    def answer_of(self, request: Request, pctrs: Sequence[float]) -> Answer:
        """A request and the pCTRs of its candidates -> the answer."""
        results = [
            Result(each.id, pctr, bid_of(each, pctr))
            for each, pctr in zip(request.candidates, pctrs, strict=True)
        ]
        return Answer(request.id, ARM, self.bundle, results)

    def plain_answer(self, request: Any, pctrs: Sequence[float]) -> dict[str, Any]:
        """The same as dicts, for frameworks that do their own encoding."""
        results = [
            {"id": each.id, "pctr": pctr, "bid": bid_of(each, pctr)}
            for each, pctr in zip(request.candidates, pctrs, strict=True)
        ]
        return {"id": request.id, "arm": ARM, "bundle": self.bundle, "results": results}


def bid_of(candidate: Any, pctr: float) -> float | None:
    """pCTR x value per click in micros; None below the floor, or without a value."""
    if candidate.value_per_click is None:
        return None
    bid = round(pctr * candidate.value_per_click, 6)
    return None if bid < (candidate.bid_floor or 0.0) else bid


def _session(graph: bytes) -> onnxruntime.InferenceSession:
    options = session_options(onnxruntime)
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def options_parser(description: str) -> argparse.ArgumentParser:
    """`--bundle`, `--ads` and `--port`, which every server takes."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--bundle", type=Path, required=True, metavar="FOLDER", help="the bundle to serve")
    parser.add_argument("--ads", type=Path, metavar="FILE", help="the ads that requests name by id alone")
    parser.add_argument("--port", type=int, required=True, help="TCP port of 127.0.0.1")
    return parser


def batching_parser(description: str) -> argparse.ArgumentParser:
    """The same with `--batch N` and `--wait-ms MS`."""
    parser = options_parser(description)
    parser.add_argument("--batch", type=int, default=1, metavar="N", help="most requests of a batch")
    parser.add_argument(
        "--wait-ms", type=float, default=1.0, metavar="MS", help="longest wait for batch-mates"
    )
    return parser
