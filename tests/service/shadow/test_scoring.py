"""What a shadow does at once: a slice reads no more than one request, and compares a bounded number."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from service.arms.split import Arm
from service.metrics.families import Metrics
from service.scoring.predictor import Predictor
from service.settings import Settings
from service.shadow.copies import Copy
from service.shadow.meter import ShadowMeter
from service.shadow.scoring import MOST_REQUESTS, MOST_ROWS, Scorer, ShadowJob
from service.wire import JSON
from tests.service.http.test_predict_endpoint import ROWS, request_of


@pytest.fixture
def scorer(bundles: dict[str, Path]) -> Scorer:
    predictor = Predictor.load(str(bundles["beta"]), Settings())
    return Scorer(Arm("shadow", 0.0, predictor), ShadowMeter(Metrics(), "control", "shadow"), 10_000)


def job_of(scorer: Scorer, candidates: int) -> ShadowJob:
    request = request_of(ROWS[:1])
    body = msgspec.json.encode({**request, "candidates": request["candidates"] * candidates})
    copy = Copy(body, JSON, lambda _: None)
    copy.answered(np.full(candidates, 0.5), b"")
    return ShadowJob(scorer, copy)


@pytest.mark.parametrize(("candidates", "most"), [(1, MOST_REQUESTS), (100, MOST_ROWS // 100), (1_000, 1)])
def test_so_many_requests_and_candidates_are_done_together(
    scorer: Scorer, candidates: int, most: int
) -> None:
    job = job_of(scorer, candidates)
    while job.join(job_of(scorer, candidates)):
        assert job.requests <= most
    assert job.requests == most


def test_a_step_reads_one_request(scorer: Scorer, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[int] = []
    encode = scorer.encode
    monkeypatch.setattr(scorer, "encode", lambda *given: reads.append(1) or encode(*given))
    job = job_of(scorer, 2)
    for _ in range(5):
        assert job.join(job_of(scorer, 2))
    while not job.step():
        assert sum(reads) <= 1
        reads.clear()
