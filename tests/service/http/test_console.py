"""The numbers of the console, and what its page may do."""

from __future__ import annotations

import asyncio
import json
import time
from base64 import b64encode
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.arms.steering import Change
from service.calibration.fit import pcoc_interval
from service.features.store import pack
from service.metrics.buckets import LATENCY_BUCKETS, PCTR_BUCKETS
from service.metrics.families import Metrics
from service.metrics.memory import CountMemory
from tests.feature_stores import fill
from tests.running import JSON, RunningApp
from tests.tiny_bundle import tiny_rows

RunApp = Callable[..., RunningApp]
REQUEST = {"context": tiny_rows(1)[0]["context"], "candidates": [{"features": {"ad": "a1"}}] * 4}


@pytest.fixture
def keys(tmp_path: Path) -> str:
    (tmp_path / "keys").write_text(f"0 {'5e' * 16}\n", encoding="ascii")
    return str(tmp_path / "keys")


def numbers(app: RunningApp) -> dict[str, Any]:
    answer = app.get("/console.json")
    assert (answer.status_code, answer.headers["cache-control"]) == (200, "no-store")
    found: dict[str, Any] = answer.json()
    return found


def send(app: RunningApp, path: str, body: Any) -> httpx.Response:
    return app.runner.run(app.client.post(path, content=json.dumps(body), headers=JSON))


def test_counts_of_requests_are_by_arm_outcome_and_size(run_app: RunApp, bundles: dict[str, Path]) -> None:
    app = run_app(arms=(f"control={bundles['alpha']}:3", f"treatment={bundles['beta']}"))
    before = numbers(app)
    assert [sum(arm["outcomes"].values()) for arm in before["arms"]] == [0, 0]
    for _ in range(3):
        answer = app.post(REQUEST, {"x-arm": "treatment"})
    assert app.post({"candidates": 1}, {"x-arm": "control"}).status_code == 422
    assert app.post(b"{").status_code == 400
    found = numbers(app)
    control, treatment = found["arms"]
    assert sum(treatment["qualities"].values()) == 3
    assert (treatment["outcomes"]["ok"], treatment["qualities"]["full"]) == (3, 3)
    assert control["outcomes"]["ok"] == 0
    refused = {**control["outcomes"], **found["without_arm"]}
    assert (refused["invalid_field"], refused["malformed_body"]) == (1, 1)
    latency, pctr = treatment["latency"], treatment["pctr"]
    assert (sum(latency["counts"]), sum(pctr["counts"])) == (3, 12)
    assert len(latency["counts"]) == len(found["latency_bounds"]) + 1 == len(LATENCY_BUCKETS) + 1
    assert len(pctr["counts"]) == len(found["pctr_bounds"]) + 1 == len(PCTR_BUCKETS) + 1
    own = answer.json()["results"][0]["pctr"]
    assert pctr["sum"] == pytest.approx(12 * own, rel=1e-5)
    place = pctr["counts"].index(12)
    assert found["pctr_bounds"][place - 1] < own <= found["pctr_bounds"][place]
    assert found["at"] == pytest.approx(time.time(), abs=20)
    assert found["workers"] == {"serving": 1, "set": 1}


def test_a_canary_is_shown_with_its_gates_and_all_verdicts(run_app: RunApp, bundles: dict[str, Path]) -> None:
    app = run_app(arms=(f"control={bundles['alpha']}:3", f"treatment={bundles['beta']}:1"))
    assert numbers(app)["canary"] == {"under_way": None, "verdicts": []}
    metrics = app.app.metrics
    metrics.canary_share.labels("treatment", "control").set(0.25)
    metrics.canary_step.labels("treatment").set(3)
    metrics.canary_gate.labels("treatment", "errors").set(0.5)
    metrics.canary_verdicts.labels("treatment", "taken_back", "errors")
    metrics.canary_verdicts.labels("treatment", "raised", "").inc(2)
    verdict = {"arm": "treatment", "verdict": "raised", "gate": "", "count": 2}
    under_way = {"arm": "treatment", "control": "control", "share": 0.25, "step": 3, "gates": {"errors": 0.5}}
    assert numbers(app)["canary"] == {"under_way": under_way, "verdicts": [verdict]}


def test_arms_are_as_they_are_steered_now(run_app: RunApp, bundles: dict[str, Path]) -> None:
    app = run_app(arms=(f"control={bundles['alpha']}:3", f"treatment={bundles['beta']}:1"))
    memory = app.app.served.steering
    memory.write(memory.read()[1].with_killed("treatment", Change(2.0, "kill", 0), is_killed=True))
    found, arms = numbers(app), app.get("/arms").json()
    assert found["control_arm"] == arms["control_arm"] == "control"
    for shown, described in zip(found["arms"], arms["arms"], strict=True):
        for key in ("name", "weight", "share", "is_killed", "bundle", "created_at", "variant", "provider"):
            assert shown[key] == described[key], key
        assert shown["model"] == described["model"]["name"]
    assert [arm["is_killed"] for arm in found["arms"]] == [False, True]


def test_pcoc_comes_with_its_interval(run_app: RunApp, keys: str) -> None:
    assert [numbers(run_app())["arms"][0][key] for key in ("hours", "reliability")] == [None, None]
    app = run_app(feedback_keys=keys, live_calibration="observe")
    assert numbers(app)["arms"][0]["feedback"] is None
    results = send(app, "/predict", {**REQUEST, "tracking": True}).json()["results"]

    def report(kind: str, count: int) -> dict[str, Any]:
        events = [{"token": result["token"], "type": kind} for result in results[:count]]
        assert send(app, "/feedback", {"events": events}).json()["counted"] == count
        found: dict[str, Any] = numbers(app)["arms"][0]["feedback"]
        return found

    shown = report("impression", 4)
    predicted = sum(result["pctr"] for result in results)
    assert (shown["impressions"], shown["clicks"]) == (4, 0)
    assert shown["pcoc"] == {
        "value": None,
        "low": pytest.approx(pcoc_interval(predicted, 0)[0], rel=1e-4),
        "high": None,
    }
    clicked = report("click", 2)
    low, high = pcoc_interval(predicted, 2)
    assert (clicked["impressions"], clicked["clicks"]) == (4, 2)
    assert clicked["pcoc"] == pytest.approx({"value": predicted / 2, "low": low, "high": high}, rel=1e-4)
    (arm,) = numbers(app)["arms"]
    (hour,) = arm["hours"]["each"]  # all of the time of the one answer
    assert (hour["impressions"], hour["clicks"], hour["pcoc"]) == (4, 2, pytest.approx(clicked["pcoc"]))
    assert 0 <= time.time() - hour["at"] < 3660
    (point,) = arm["reliability"]["points"]
    assert (point["impressions"], point["clicks"], point["rate"]) == (4, 2, 0.5)
    assert point["pctr"] == pytest.approx(predicted / 4, rel=1e-4)
    assert (point["low"], point["high"]) == pytest.approx((0.1500, 0.8500), abs=1e-4)
    assert arm["live_calibration"] == app.get("/arms").json()["arms"][0]["live_calibration"]
    assert arm["live_calibration"]["mode"] == "observe"


def test_refusals_are_by_reason(run_app: RunApp) -> None:
    app = run_app(max_candidates=4, max_queued_rows=4, max_batch_rows=4)
    assert sum(numbers(app)["refusals"].values()) == 0

    async def exchange() -> list[int]:
        answers = await asyncio.gather(*(app.client.post("/predict", json=REQUEST) for _ in range(9)))
        return [answer.status_code for answer in answers]

    statuses = app.runner.run(exchange())
    assert set(statuses) == {200, 429}
    found = numbers(app)
    assert found["refusals"]["queue"] == statuses.count(429)
    assert found["last_refusals"] == {"queue": pytest.approx(time.time(), abs=60)}


@pytest.mark.parametrize("url", ["lmdb"], indirect=True)
def test_the_catalogue_has_an_age(run_app: RunApp, url: str) -> None:
    assert numbers(run_app())["arms"][0]["catalogue"] is None
    fill(url, "ads", {f"ad-{n}": pack(row["candidate"]) for n, row in enumerate(tiny_rows(7))})
    before = time.time()
    catalogue = numbers(run_app(feature_store=url))["arms"][0]["catalogue"]
    assert catalogue["ads"] == 7
    assert before <= catalogue["read_at"] <= time.time()


def test_of_several_processes_the_oldest_catalogue_and_all_workers_count() -> None:
    memory = CountMemory(parts=2)
    both = [Metrics(memory, number) for number in range(2)]
    for at, metrics in zip((20.0, 10.0), both, strict=True):
        metrics.catalogue_read.labels("a").set(at)
        metrics.serving_processes.labels().set(1)
    totals = both[0].totals()
    assert totals["bidlight_catalogue_read_timestamp_seconds", ("a",)] == [10.0]
    assert totals["bidlight_serving_processes", ()] == [2.0]
    memory.end_tenure(1)
    totals = both[0].totals()
    assert totals["bidlight_catalogue_read_timestamp_seconds", ("a",)] == (20.0,)
    assert totals["bidlight_serving_processes", ()] == (1.0,)


def test_reloads_have_a_time(run_app: RunApp, bundles: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "served"
    folder.symlink_to(bundles["alpha"])
    app = run_app(arms=(f"control={folder}",), try_reloads="off")
    assert numbers(app)["reloads"] == {
        "ok": {"count": 0, "last_at": None},
        "refused": {"count": 0, "last_at": None},
        "undone": {"count": 0, "last_at": None},
    }
    app.runner.run(app.app.served.reload())
    folder.unlink()
    app.runner.run(app.app.served.reload())
    ok, refused, _ = numbers(app)["reloads"].values()
    assert (ok["count"], refused["count"]) == (1, 1)
    assert time.time() - 60 < ok["last_at"] < refused["last_at"] <= time.time()


def test_without_metrics_there_is_no_console(run_app: RunApp) -> None:
    app = run_app(metrics="off")
    refused = app.get("/metrics")
    for path in ("/console", "/console.json"):
        assert (app.get(path).status_code, app.get(path).content) == (404, refused.content)


@pytest.fixture
def page(run_app: RunApp) -> httpx.Response:
    return run_app().get("/console")


def test_the_page_may_run_its_own_script_and_ask_its_own_origin(page: httpx.Response) -> None:
    assert page.headers["content-type"].startswith("text/html")
    policy = dict(part.split(" ", 1) for part in page.headers["content-security-policy"].split("; "))
    assert (policy["default-src"], policy["connect-src"]) == ("'none'", "'self'")
    for tag in ("script", "style"):
        (inline,) = [part.split(f"</{tag}>")[0] for part in page.text.split(f"<{tag}>")[1:]]
        digest = b64encode(sha256(inline.encode()).digest()).decode()
        assert policy[f"{tag}-src"] == f"'sha256-{digest}'"


def test_the_page_names_no_other_origin_and_writes_no_markup(page: httpx.Response) -> None:
    addresses = page.text.replace("http://www.w3.org/2000/svg", "")  # a name that nobody fetches
    for part in ("http://", "https://", "src=", "@import", "url(", "innerHTML", "insertAdjacent", "eval("):
        assert part not in addresses, part
    assert "<noscript>" in page.text
