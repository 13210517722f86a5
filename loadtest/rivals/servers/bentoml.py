"""BentoML: one service alone, or one in front of a second that batches requests."""

from __future__ import annotations

import os
import sys
from typing import Any

import bentoml

from loadtest.rivals.servers.job import Job, batching_parser
from loadtest.rivals.servers.pydantic_request import PredictRequest

BUNDLE_VARIABLE, ADS_VARIABLE = "RIVALS_BUNDLE", "RIVALS_ADS"
BATCH_VARIABLE, WAIT_VARIABLE = "RIVALS_BATCH", "RIVALS_WAIT_MS"
ALONE: dict[str, Any] = {
    "workers": 1,
    "traffic": {"timeout": 60},
    "logging": {"access": {"enabled": False}},
}


def job() -> Job:
    """The job with the bundle, and the ads if any, of the command line."""
    return Job(os.environ[BUNDLE_VARIABLE], os.environ[ADS_VARIABLE])


@bentoml.service(**ALONE)
class Lone:
    """A request at a time; the slash makes the body itself the one parameter."""

    def __init__(self) -> None:
        self.job = job()

    @bentoml.api(route="/predict")
    def predict(self, request: PredictRequest, /) -> dict[str, Any]:
        return self.job.plain_answer(request, self.job.score([request])[0])


@bentoml.service(**ALONE)
class Batched:
    """Scores the front's requests in batches."""

    def __init__(self) -> None:
        self.job = job()

    @bentoml.api(
        batchable=True,
        max_batch_size=max(2, int(os.environ.get(BATCH_VARIABLE, "2"))),
        max_latency_ms=int(os.environ.get(WAIT_VARIABLE, "1000")),
    )
    def score(self, requests: list[PredictRequest]) -> list[dict[str, Any]]:
        pctrs = self.job.score(requests)
        return [self.job.plain_answer(*each) for each in zip(requests, pctrs, strict=True)]


@bentoml.service(**ALONE)
class Front:
    """Takes one request and returns one answer; the batches are behind it."""

    scorer = bentoml.depends(Batched)

    @bentoml.api(route="/predict")
    async def predict(self, request: PredictRequest, /) -> dict[str, Any]:
        answers: list[dict[str, Any]] = await self.scorer.to_async.score([request])
        return answers[0]


def main() -> None:
    options = batching_parser(__doc__).parse_args()
    os.environ[BUNDLE_VARIABLE] = str(options.bundle)
    os.environ[ADS_VARIABLE] = str(options.ads or "")
    os.environ[BATCH_VARIABLE] = str(options.batch)
    os.environ[WAIT_VARIABLE] = str(round(options.wait_ms))
    service = "Lone" if options.batch == 1 else "Front"
    # `bentoml serve` starts the workers; in this process's place, so that signals reach it.
    command = [sys.executable, "-m", "bentoml", "serve", f"{__spec__.name}:{service}"]
    command += ["--host", "127.0.0.1", "--port", str(options.port)]
    os.execv(sys.executable, command)


if __name__ == "__main__":
    main()
