"""Shadow arms change no answer, score what other arms have answered, and whatever they do hurts nobody."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import msgspec
import pytest

from service.arms.shadowing import Shadowing
from service.arms.steering import Change
from service.bundle.schema import Field, Kind, Role, Schema, Vocabulary
from service.features.store import pack
from service.shadow import queue as queue_module
from service.shadow import spare
from tests import feature_stores
from tests.forged_bundle import overflow_for_an_ad
from tests.running import JSON, MSGPACK, RunningApp
from tests.service.http.test_predict_endpoint import ROWS, columns_of, pctrs_of, request_of
from tests.tiny_bundle import tiny_schema, write_tiny_bundle
from tests.wire import Wire

RunApp = Callable[..., RunningApp]
DROPPED = re.compile(r'bidlight_shadow_dropped_total{arm="control",reason="(\w+)",shadow="candidate"}')


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow the machine is, nothing is dropped for it; the queue's own tests are about that."""
    monkeypatch.setattr(queue_module, "PATIENCE_SECONDS", 1e9)
    monkeypatch.setattr(queue_module, "FEWEST_WAITING", queue_module.MAX_WAITING)
    for module in (queue_module, spare):
        monkeypatch.setattr(module, "LEAST_SHARE", spare.MOST_SHARE)


@pytest.fixture
def arms(bundles: dict[str, Path]) -> tuple[str, str]:
    return f"control={bundles['alpha']}", f"candidate={bundles['beta']}"


def with_shadow(run_app: RunApp, arms: tuple[str, ...], **settings: Any) -> RunningApp:
    return run_app(arms=arms, shadows=("candidate=control:1",), **settings)


def count(app: RunningApp, name: str, **labels: str) -> float:
    given = {"arm": "control", "shadow": "candidate", **labels}
    text = ",".join(f'{key}="{given[key]}"' for key in sorted(given))
    return app.metrics().get(f"bidlight_shadow_{name}{{{text}}}", 0.0)


def dropped(app: RunningApp) -> dict[str, float]:
    """The requests that the shadow has not scored, by reason."""
    counted = app.metrics().items()
    found = {DROPPED.fullmatch(name): number for name, number in counted if number}
    return {match[1]: number for match, number in found.items() if match}


def done_with(app: RunningApp) -> float:
    """The requests that the shadow has scored or not."""
    return sum(dropped(app).values()) + count(app, "requests_total")


def wait_for(app: RunningApp, done: int) -> None:
    """Let the application run until the shadow has done with so many requests."""
    deadline = time.monotonic() + 60.0
    while done_with(app) < done:
        assert time.monotonic() < deadline
        app.runner.run(asyncio.sleep(0.01))


@contextmanager
def waiting(app: RunningApp) -> Iterator[None]:
    """What a shadow is to do waits meanwhile, and is done together then."""
    admission = app.app.predict_service.admission
    work = admission.start(1)
    yield
    admission.stop(work)


@pytest.mark.parametrize("native", ["on", "off"])
@pytest.mark.parametrize("way", [waiting, nullcontext])
def test_answers_and_counts_of_the_arm_are_the_same_with_and_without(
    run_app: RunApp, arms: tuple[str, str], bundles: dict[str, Path], native: str, way: Callable[..., Any]
) -> None:
    alone, app = run_app(native=native), with_shadow(run_app, arms, native=native)
    served = run_app(arms=(f"control={bundles['beta']}",), native=native)
    own, others = [], []
    with way(app):
        for number in range(1, len(ROWS)):
            rows = request_of(ROWS[:number])
            for request in (rows, columns_of(rows)):
                for codec, headers in ((msgspec.json, JSON), (msgspec.msgpack, MSGPACK)):
                    body = codec.encode(request)
                    expected, found = alone.post(body, headers), app.post(body, headers)
                    assert (found.status_code, found.content) == (200, expected.content)
                    assert found.headers == expected.headers
                    own += pctrs_of(codec.decode(found.content))
                    others += pctrs_of(codec.decode(served.post(body, headers).content))
    wait_for(app, 4 * (len(ROWS) - 1))
    assert dropped(app) == {}
    assert count(app, "candidates_total") == len(own)
    assert count(app, "pctr_total", pctr="arm") == pytest.approx(sum(own))
    assert count(app, "pctr_total", pctr="shadow") == pytest.approx(sum(others))
    assert count(app, "pctr_difference_sum") == pytest.approx(sum(others) - sum(own))
    best = count(app, "best_total", best="same") + count(app, "best_total", best="other")
    assert best == 4 * (len(ROWS) - 2)
    found, expected = app.metrics(), alone.metrics()
    for name, value in expected.items():
        if 'arm="control"' in name and not any(word in name for word in ("seconds", "bundle_info")):
            assert found[name] == pytest.approx(value), name
    assert found['bidlight_requests_total{arm="candidate",outcome="ok"}'] == 0
    assert found['bidlight_pctr_count{arm="candidate"}'] == len(own)


def test_a_request_straight_from_the_parser_is_scored_too(run_app: RunApp, arms: tuple[str, str]) -> None:
    app = with_shadow(run_app, arms)
    body = msgspec.json.encode(request_of(ROWS[:3]))
    head = f"POST /predict HTTP/1.1\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"

    async def send() -> None:
        async with Wire(app.app) as wire:
            await wire.send(head.encode() + body)
            assert (await wire.receive(1))[0].startswith(b"HTTP/1.1 200")

    app.runner.run(send())
    wait_for(app, 1)
    assert count(app, "candidates_total") == 3


def test_a_shadow_answers_nobody_and_may_be_ended(run_app: RunApp, arms: tuple[str, str]) -> None:
    app = with_shadow(run_app, arms)
    refused = app.post(request_of(ROWS[:1]), {"x-arm": "candidate"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (404, "unknown_arm")
    assert "must be one of control (got 'candidate', a shadow, which answers nothing)" in refused.text
    keys = [app.post(request_of(ROWS[:1], user_id=f"u{n}")).headers["x-arm"] for n in range(20)]
    assert set(keys) == {"control"}
    described = {arm["name"]: arm for arm in app.get("/arms").json()["arms"]}
    assert (described["candidate"]["shadow"], described["candidate"]["weight"]) == (
        {"of": "control", "share": 1.0},
        0.0,
    )
    assert described["control"]["shadow"] is None
    wait_for(app, 20)
    shown = {arm["name"]: arm["shadow"] for arm in app.get("/console.json").json()["arms"]}
    assert (shown["control"], shown["candidate"]["requests"]) == (None, 20.0)
    assert count(app, "share") == 1.0
    memory = app.app.served.steering
    change = Change(2.0, "shadow off", 0)
    memory.write(memory.read()[1].with_shadow("candidate", None, change))
    app.app.served.follow()
    assert app.app.predict_service.shadows is None
    assert app.post(request_of(ROWS[:1]), {"x-arm": "candidate"}).status_code == 200
    memory.write(memory.read()[1].with_shadow("candidate", Shadowing("control", 0.5), change))
    app.app.served.follow()
    assert app.app.predict_service.shadows is not None
    assert count(app, "share") == 0.5
    memory.write(memory.read()[1].with_killed("candidate", change, is_killed=True))
    app.app.served.follow()
    assert app.app.predict_service.shadows is None
    assert count(app, "share") == 0.0


def test_of_a_share_the_same_keys_are_scored_each_time(run_app: RunApp, arms: tuple[str, str]) -> None:
    app = run_app(arms=arms, shadows=("candidate=control:0.5",))
    shadows, scored = app.app.predict_service.shadows, list[bool]()
    assert shadows is not None
    app.app.predict_service.admission.start(1)  # so that what is copied waits
    for _ in range(2):
        for user in range(20):
            app.post(request_of(ROWS[:1], user_id=f"u{user}"))
            copies = len(shadows._queue)
            scored.append(copies > 0)
            shadows._queue.drop_all()
    assert scored[:20] == scored[20:]
    assert 3 < sum(scored[:20]) < 17


def test_what_waits_for_a_shadow_stays_when_another_one_changes(
    run_app: RunApp, bundles: dict[str, Path]
) -> None:
    arms = tuple(f"{name}={bundles['alpha']}" for name in ("control", "candidate", "other"))
    app = run_app(arms=arms, shadows=("candidate=control:1", "other=control:1"))
    shadows = app.app.predict_service.shadows
    assert shadows is not None
    memory, change = app.app.served.steering, Change(2.0, "shadow", 0)
    with waiting(app):
        for _ in range(3):
            app.post(request_of(ROWS[:2]))
        assert len(shadows._queue) == 6
        memory.write(memory.read()[1].with_shadow("other", Shadowing("control", 0.5), change))
        app.app.served.follow()
        assert len(shadows._queue) == 3
    wait_for(app, 3)
    assert count(app, "candidates_total") == 6


def other_schema(*fields: Field) -> Schema:
    return Schema((*fields, *tiny_schema().fields))


DEVICE = Field("device", Kind.CATEGORICAL, Role.CONTEXT, Vocabulary(("phone", "tablet")))


def test_a_shadow_of_another_schema_reads_what_it_knows_and_changes_no_answer(
    run_app: RunApp, bundles: dict[str, Path], tmp_path: Path
) -> None:
    folder = write_tiny_bundle(tmp_path / "wide", seed=7, schema=other_schema(DEVICE))
    alone = run_app()
    app = with_shadow(run_app, (f"control={bundles['alpha']}", f"candidate={folder}"))
    served = run_app(arms=(f"control={folder}",))
    expected = []
    for device in ("phone", "tablet", None):
        request = request_of(ROWS[:4])
        request["context"] = {**request["context"], "device": device}
        body = msgspec.json.encode(request)
        assert app.post(body).content == alone.post(body).content
        expected += pctrs_of(served.post(body).json())
    # What is no value of its fields is refused to a shadow alone.
    request["context"]["device"] = {"of": "another type"}
    body = msgspec.json.encode(request)
    assert app.post(body).content == alone.post(body).content
    wait_for(app, 4)
    assert dropped(app) == {"refused": 1.0}
    assert count(app, "pctr_total", pctr="shadow") == pytest.approx(sum(expected))
    assert app.metrics()['bidlight_unknown_names_total{arm="control",name="device"}'] == 4.0


def test_stored_features_that_were_looked_up_are_the_shadows_too(
    run_app: RunApp, arms: tuple[str, str], bundles: dict[str, Path], tmp_path: Path
) -> None:
    url = f"lmdb://{tmp_path}"
    feature_stores.fill(url, "users", {"u1": pack(ROWS[0]["context"])})
    feature_stores.fill(url, "ads", {"ad-1": pack(ROWS[1]["candidate"])})
    store = {"feature_store": url, "feature_timeout_ms": 1000.0}
    app = with_shadow(run_app, arms, **store)
    served = run_app(arms=(f"control={bundles['beta']}",), **store)
    expected = []
    for given in ({}, {"site": "s2"}):
        for candidates in ([{"id": "ad-1"}] * 3, {"id": ["ad-1"]}):
            request = {"user_id": "u1", "context": given, "candidates": candidates}
            assert app.post(request).status_code == 200
            expected += pctrs_of(served.post(request).json())
    wait_for(app, 4)
    assert dropped(app) == {}
    assert count(app, "pctr_total", pctr="shadow") == pytest.approx(sum(expected))


@pytest.mark.parametrize("way", [waiting, nullcontext])
def test_a_shadow_without_a_finite_number_is_counted_and_hurts_nobody(
    run_app: RunApp,
    bundles: dict[str, Path],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    way: Callable[..., Any],
) -> None:
    folder = write_tiny_bundle(tmp_path / "overflows", seed=3)
    ad = overflow_for_an_ad(folder)
    alone = run_app()
    app = with_shadow(run_app, (f"control={bundles['alpha']}", f"candidate={folder}"))
    with way(app):
        for ads in ([ad], ["a1" if ad != "a1" else "a2"], [ad] * 5):
            request = {**request_of(ROWS[:1]), "candidates": [{"features": {"ad": each}} for each in ads]}
            assert app.post(request).content == alone.post(request).content
    wait_for(app, 3)
    assert dropped(app) == {"nan": 2.0}
    assert count(app, "requests_total") == 1.0
    assert caplog.text.count("the shadow candidate gives no finite number for a request") == 1
    assert app.get("/healthz").status_code == 200


def test_a_shadow_that_fails_is_counted_and_hurts_nobody(
    run_app: RunApp, arms: tuple[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    app, alone = with_shadow(run_app, arms), run_app()
    candidate = next(arm for arm in app.app.served.arms if arm.name == "candidate")
    del candidate.predictor.graphs  # whatever it is, it fails
    for _ in range(3):
        assert app.post(request_of(ROWS[:2])).content == alone.post(request_of(ROWS[:2])).content
    wait_for(app, 3)
    assert dropped(app) == {"failed": 3.0}
    assert caplog.text.count("the shadow candidate fails on a request of another arm") == 1
    assert "Traceback" in caplog.text
    app.app.health._checked = float("-inf")
    assert app.get("/healthz").status_code == 200


def test_what_waits_for_a_bundle_that_is_replaced_is_dropped(
    run_app: RunApp, bundles: dict[str, Path], tmp_path: Path
) -> None:
    folder = write_tiny_bundle(tmp_path / "candidate", seed=1)
    arms = f"control={bundles['alpha']}", f"candidate={folder}"
    app = with_shadow(run_app, arms, try_reloads="off")
    shadows = app.app.predict_service.shadows
    assert shadows is not None
    # Something is always under way.
    app.app.predict_service.admission.start(1)
    for _ in range(3):
        assert app.post(request_of(ROWS[:2])).status_code == 200
    app.runner.run(asyncio.sleep(0.05))
    assert app.metrics()["bidlight_shadow_waiting_requests"] == 3.0
    write_tiny_bundle(folder, seed=2)
    app.runner.run(app.app.served.reload())
    assert dropped(app) == {"gone": 3.0}
    assert app.metrics()["bidlight_shadow_waiting_requests"] == 0.0


def test_while_there_is_no_time_few_copies_are_kept(
    run_app: RunApp, arms: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    app = with_shadow(run_app, arms)
    with monkeypatch.context() as patched:
        patched.setattr(queue_module, "FEWEST_WAITING", 3)
        patched.setattr(spare.SpareTime, "measure", lambda _: 0.0)
        work = app.app.predict_service.admission.start(1)
        app.runner.run(asyncio.sleep(0.0))
        for _ in range(5):
            assert app.post(request_of(ROWS[:2])).status_code == 200
            app.runner.run(asyncio.sleep(2.0 * queue_module.PAUSE_SECONDS))
        assert dropped(app) == {"busy": 2.0}
        wrong = {**request_of(ROWS[:2]), "context": {**ROWS[0]["context"], "hour": "noon"}}
        assert app.post(wrong).status_code == 422  # it was read, and never answered
        assert dropped(app) == {"busy": 2.0}
        assert app.metrics()["bidlight_shadow_waiting_requests"] == 3.0
        assert app.metrics()["bidlight_shadow_time_share"] == 0.0
    app.app.predict_service.admission.stop(work)
    wait_for(app, 5)
    assert dropped(app) == {"busy": 2.0}


def test_what_waits_at_the_end_is_counted_as_dropped(run_app: RunApp, arms: tuple[str, str]) -> None:
    app = with_shadow(run_app, arms)
    app.app.predict_service.admission.start(1)
    for _ in range(3):
        assert app.post(request_of(ROWS[:2])).status_code == 200
    app.runner.run(app.app.close_feedback())
    assert dropped(app) == {"gone": 3.0}
    assert app.metrics()["bidlight_shadow_waiting_requests"] == 0.0


@pytest.mark.parametrize("live_calibration", ["off", "on"])
@pytest.mark.parametrize("native", ["on", "off"])
def test_events_judge_the_shadow_by_the_same_impressions(
    run_app: RunApp,
    arms: tuple[str, str],
    bundles: dict[str, Path],
    tmp_path: Path,
    native: str,
    live_calibration: str,
) -> None:
    (tmp_path / "keys").write_text(f"0 {'5e' * 16}\n")
    settings = {"feedback_keys": str(tmp_path / "keys"), "native": native}
    app = with_shadow(run_app, arms, live_calibration=live_calibration, **settings)
    served = run_app(arms=(f"control={bundles['beta']}",), native=native)
    own, others, tokens = [], [], []
    for request in (request_of(ROWS[:5]), columns_of(request_of(ROWS[:5]))):
        for codec, headers in ((msgspec.json, JSON), (msgspec.msgpack, MSGPACK)):
            found = codec.decode(app.post(codec.encode({**request, "tracking": True}), headers).content)
            results = found["results"]
            is_columns = isinstance(results, dict)
            tokens += results["token"] if is_columns else [result["token"] for result in results]
            own += pctrs_of(found)
            others += pctrs_of(served.post(request).json())
    wait_for(app, 4)
    assert count(app, "tokens_total", outcome="kept") == len(tokens) == 20
    events = [{"token": token, "type": "impression"} for token in tokens[:15]]
    events += [{"token": tokens[place], "type": "click"} for place in (1, 4, 19)]
    for _ in range(2):  # what comes again does not count again
        app.runner.run(app.client.post("/feedback", json={"events": events}))
    assert count(app, "events_total", type="impression") == 15
    assert count(app, "events_total", type="click") == 2
    assert count(app, "shown_pctr_total", pctr="arm") == pytest.approx(sum(own[:15]), rel=1e-5)
    assert count(app, "shown_pctr_total", pctr="shadow") == pytest.approx(sum(others[:15]), rel=1e-5)
