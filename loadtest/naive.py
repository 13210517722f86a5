"""The baseline: the same bundle behind the FastAPI service that one writes in an afternoon.

A `def` route (so each request runs in a thread of the pool), a pydantic body, features looked up a row at a
time, one `session.run` a request. Nothing is made slow on purpose: the graph is the one that Bidlight
serves, and ONNX Runtime is held to one thread, as it should be on one core. It reads the bundle as plain
JSON and imports nothing of ours.
"""

from __future__ import annotations

import argparse
import bisect
import json
import math
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel


class Candidate(BaseModel):
    id: str | None = None
    features: dict[str, Any] = {}
    value_per_click: float | None = None
    bid_floor: float | None = None


class PredictRequest(BaseModel):
    id: str | None = None
    user_id: str | None = None
    context: dict[str, Any] = {}
    candidates: list[Candidate]


def lookup(folder: Path, field: dict[str, Any]) -> Callable[[Any], list[int]]:
    """A field of schema.json -> the function from a raw value to its ids, `max_length` of them."""
    encoding, length = field["encoding"], field["max_length"]
    renumbering = np.load(folder / field["renumbering"]).tolist() if field["renumbering"] else None

    def final(base: int) -> int:
        return base if renumbering is None else renumbering[base]

    if encoding["type"] == "vocabulary":
        values = json.loads((folder / encoding["file"]).read_text(encoding="utf-8"))
        ids = {value: final(2 + position) for position, value in enumerate(values)}

        def one(value: Any) -> int:
            return 0 if value in (None, "") else ids.get(str(value), 1)
    elif encoding["type"] == "hashing":

        def one(value: Any) -> int:
            hashed = zlib.crc32(str(value).encode(), encoding["seed"])
            return 0 if value in (None, "") else final(2 + hashed % encoding["buckets"])
    else:

        def one(value: Any) -> int:
            return 0 if value is None else final(2 + bisect.bisect_right(encoding["edges"], value))

    def sequence(value: Any) -> list[int]:
        ids = [one(element) for element in (value or [])[-length:]]
        return ids + [0] * (length - len(ids))

    return sequence if field["kind"] == "sequence" else lambda value: [one(value)]


def calibration(calibrator: dict[str, Any]) -> Callable[[float], float]:
    """A calibrator of calibration.json -> the function from a logit to a pCTR."""
    knots = calibrator.get("knots") or []
    shift = math.log(calibrator.get("sampling_rate", 1.0))

    def pctr(logit: float) -> float:
        if calibrator["method"] == "platt":
            logit = calibrator["slope"] * logit + calibrator["intercept"]
        elif calibrator["method"] == "isotonic":
            if logit <= knots[0][0]:
                logit += knots[0][1] - knots[0][0]
            elif logit >= knots[-1][0]:
                logit += knots[-1][1] - knots[-1][0]
            else:
                right = bisect.bisect_right(knots, [logit, math.inf])
                (x0, y0), (x1, y1) = knots[right - 1], knots[right]
                logit = y0 + (y1 - y0) * (logit - x0) / (x1 - x0)
        probability = 1.0 / (1.0 + math.exp(-(logit + shift)))
        return float(min(max(probability, calibrator["clamp_low"]), calibrator["clamp_high"]))

    return pctr


def create_app(folder: Path) -> FastAPI:
    """The service of one bundle."""
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    fields = json.loads((folder / "schema.json").read_text(encoding="utf-8"))["fields"]
    calibrators = json.loads((folder / "calibration.json").read_text(encoding="utf-8"))["calibrators"]
    variant = manifest["serving_variant"]
    lookups = [(field["name"], field["role"], lookup(folder, field)) for field in fields]
    pctr_of = calibration(next(each for each in calibrators if each["variant"] == variant))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        folder / manifest["graphs"][variant]["file"], options, providers=["CPUExecutionProvider"]
    )
    bundle = f"{manifest['name']}@{manifest['version']}"
    app = FastAPI()

    @app.get("/readyz")
    def ready() -> dict[str, str]:
        return {"status": "ready"}

    @app.post("/predict")
    def predict(request: PredictRequest) -> dict[str, Any]:
        rows = []
        for candidate in request.candidates:
            row: list[int] = []
            for name, role, ids_of in lookups:
                row += ids_of((request.context if role == "context" else candidate.features).get(name))
            rows.append(row)
        logits = session.run(["logits"], {"ids": np.array(rows, dtype=np.int32)})[0]
        results = []
        for candidate, logit in zip(request.candidates, logits.tolist(), strict=True):
            pctr, bid = pctr_of(logit), None
            if candidate.value_per_click is not None:
                bid = round(pctr * candidate.value_per_click, 6)
                if bid < (candidate.bid_floor or 0.0):
                    bid = None
            results.append({"id": candidate.id, "pctr": pctr, "bid": bid})
        return {"id": request.id, "arm": "naive", "bundle": bundle, "results": results}

    return app


def main() -> None:
    parser = argparse.ArgumentParser(description="Serve a bundle naively: the baseline of the benchmark.")
    parser.add_argument("--bundle", type=Path, required=True, metavar="FOLDER", help="the bundle to serve")
    parser.add_argument("--port", type=int, default=8001, help="TCP port of 127.0.0.1 (default: 8001)")
    options = parser.parse_args()
    uvicorn.run(create_app(options.bundle), port=options.port, log_level="warning", access_log=False)


if __name__ == "__main__":
    main()
