"""Health sees an arm whose graph fails and a queue that stands still, and counts nothing by looking."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from service.arms import health
from service.arms.health import Health
from service.metrics.families import Metrics
from service.scoring.predictor import Predictor
from service.wire import Candidate, PredictRequest
from tests.running import RunningApp


@pytest.fixture
def app(run_app: Callable[..., RunningApp], monkeypatch: pytest.MonkeyPatch) -> RunningApp:
    """An application that looks again whenever it is asked."""
    monkeypatch.setattr(health, "CHECK_SECONDS", 0.0)
    return run_app()


def lose_a_flush(predictor: Predictor) -> None:
    """Queue a row in an event loop that ends before it runs the batch: nobody will ever run it."""
    loop = asyncio.new_event_loop()

    def end() -> None:
        raise SystemExit

    async def submit() -> None:
        loop.call_soon(end)
        predictor.admit(1)
        request = PredictRequest(candidates=[Candidate(features={"ad": "a1"})])
        predictor.submit_admitted(predictor.encode(request, 1))

    task = loop.create_task(submit())
    with pytest.raises(SystemExit):
        loop.run_until_complete(task)
    loop.close()


def probes_of(app: RunningApp) -> dict[str, int]:
    return {path: app.get(path).status_code for path in ("/healthz", "/readyz")}


def test_a_queue_that_stands_still_fails_the_probes(app: RunningApp, monkeypatch: pytest.MonkeyPatch) -> None:
    stuck = app.app.arms[0]
    predictor = stuck.predictor
    assert predictor.stuck_seconds == 0.0
    lose_a_flush(predictor)
    assert predictor.stuck_seconds > 0.0
    assert set(probes_of(app).values()) == {200}  # rows may wait for a while
    monkeypatch.setattr(health, "STUCK_SECONDS", 0.0)
    assert set(probes_of(app).values()) == {503}
    assert "rows have waited for a batch" in (app.app.health.fault() or "")
    counted = app.metrics()
    found = {key: number for key, number in counted.items() if key.startswith("bidlight_cannot_bid_total")}
    assert found == {
        f'bidlight_cannot_bid_total{{arm="{arm.name}"}}': 4 * (arm is stuck) for arm in app.app.arms
    }
    app.runner.run(app.app.served.reload())  # another queue
    assert set(probes_of(app).values()) == {200}


def test_probes_count_nothing(app: RunningApp) -> None:
    before = app.metrics()
    for _ in range(5):
        assert probes_of(app) == {"/healthz": 200, "/readyz": 200}
    after = app.metrics()
    for name in ("bidlight_batch_rows_count", "bidlight_pctr_count", "bidlight_requests_total"):
        found = [key for key in after if key.startswith(name)]
        assert [after[key] for key in found] == [before.get(key, 0) for key in found]


def test_an_arm_is_looked_at_once_a_second_however_often_it_is_asked(
    run_app: Callable[..., RunningApp], monkeypatch: pytest.MonkeyPatch
) -> None:
    arms, asked = run_app().app.arms, 0

    def serving() -> tuple[object, ...]:
        nonlocal asked
        asked += 1
        return arms

    found = Health(serving, Metrics())  # type: ignore[arg-type]
    monkeypatch.setattr(health, "CHECK_SECONDS", 3600.0)
    for _ in range(100):
        assert found.fault() is None
    assert asked == 1
