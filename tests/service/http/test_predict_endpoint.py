"""POST /predict and the other routes, through ASGI, on a real bundle."""

from __future__ import annotations

import asyncio
import gc
import json
import math
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from service.bundle.store import load_bundle
from service.wire import JSON
from tests.tiny_bundle import tiny_rows, write_tiny_bundle

RunApp = Callable[..., Any]
ROWS = tiny_rows(12, seed=5)


def request_of(rows: list[dict[str, Any]], **others: Any) -> dict[str, Any]:
    """A request with the first row's context and every row's candidate."""
    candidates = [
        {"id": f"ad-{n}", "features": row["candidate"], "value_per_click": 1.25, "bid_floor": 0.001}
        for n, row in enumerate(rows)
    ]
    return {"id": "req-1", "context": rows[0]["context"], "candidates": candidates, **others}


def columns_of(request: dict[str, Any]) -> dict[str, Any]:
    """The same request with its candidates as columns."""
    rows = request["candidates"]
    columns = {name: [row.get(name) for row in rows] for name in ("id", "value_per_click", "bid_floor")}
    names = {name for row in rows for name in row["features"]}
    features = {name: [row["features"].get(name) for row in rows] for name in names}
    return {**request, "candidates": {**columns, "features": features}}


def pctrs_of(answer: dict[str, Any]) -> list[float]:
    """The pCTRs of an answer in either shape."""
    results = answer["results"]
    return results["pctr"] if isinstance(results, dict) else [result["pctr"] for result in results]


def test_an_answer_is_as_the_design_says(run_app: RunApp, bundles: dict[str, Path]) -> None:
    answer = run_app().post(request_of(ROWS[:3]))
    bundle = load_bundle(bundles["alpha"]).manifest.id
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert (answer.headers["x-arm"], answer.headers["x-bundle"]) == ("control", bundle)
    body = answer.json()
    assert {key: body[key] for key in ("id", "arm", "bundle")} == {
        "id": "req-1",
        "arm": "control",
        "bundle": bundle,
    }
    assert [result["id"] for result in body["results"]] == ["ad-0", "ad-1", "ad-2"]
    for result in body["results"]:
        assert 0.0 < result["pctr"] < 1.0
        assert result["bid"] == round(result["pctr"] * 1.25, 6)


def test_golden_pctrs_come_back_over_http(run_app: RunApp, bundles: dict[str, Path]) -> None:
    app = run_app()
    golden = load_bundle(bundles["alpha"]).golden
    for row, pctr in zip(golden.rows, golden.variants["float32"].pctrs, strict=True):
        body = {"context": row.context, "candidates": [{"features": row.candidate}]}
        result = app.post(body).json()["results"][0]
        assert result["pctr"] == pytest.approx(pctr, rel=1e-4)
        assert result["bid"] is None


def test_rows_columns_json_and_messagepack_agree(run_app: RunApp) -> None:
    app = run_app()
    request = request_of(ROWS)
    rows = app.post(request).json()["results"]
    columns = app.post(columns_of(request)).json()["results"]
    assert [{"id": i, "pctr": p, "bid": b} for i, p, b in zip(*columns.values(), strict=True)] == rows
    headers = {"content-type": "application/msgpack"}
    for body, expected in ((request, rows), (columns_of(request), columns)):
        answer = app.post(msgspec.msgpack.encode(body), headers)
        assert answer.headers["content-type"] == "application/msgpack"
        assert msgspec.msgpack.decode(answer.content)["results"] == expected


def test_a_row_scores_the_same_alone_and_among_others(run_app: RunApp) -> None:
    app = run_app()
    together = app.post(request_of(ROWS)).json()["results"]
    for index, row in enumerate(ROWS):
        alone = request_of([{"context": ROWS[0]["context"], "candidate": row["candidate"]}])
        assert app.post(alone).json()["results"][0]["pctr"] == together[index]["pctr"]


def test_requests_of_one_iteration_share_a_batch(run_app: RunApp) -> None:
    app = run_app()

    async def send_all() -> list[Any]:
        return await asyncio.gather(*[app.client.post("/predict", json=request_of([row])) for row in ROWS])

    answers = app.runner.run(send_all())
    alone = [app.post(request_of([row])).json()["results"] for row in ROWS]
    assert [answer.json()["results"] for answer in answers] == alone
    metrics = app.metrics()
    batches = metrics['bidlight_batch_rows_count{arm="control"}'] - len(ROWS)
    assert metrics['bidlight_batch_rows_sum{arm="control"}'] == 2 * len(ROWS)
    assert batches < len(ROWS)


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"context": {"site": 1.5}}, "$.context.site"),
        ({"context": {"hour": "noon"}}, "$.context.hour"),
        ({"context": {"hour": 10**400}}, "$.context.hour"),
        ({"context": {"site": True}}, "$.context.site"),
        ({"context": {"history": ["a1", {}]}}, "$.context.history[1]"),
        ({"candidates": [{}, {"features": {"ad": {"x": 1}}}]}, "$.candidates[1].features.ad"),
        ({"candidates": {"features": {"ad": ["a1", [2]]}}}, "$.candidates.features.ad[1]"),
        (
            {"candidates": {"features": {"ad": ["a1", "a2"], "campaign": [1]}}},
            "$.candidates.features.campaign",
        ),
        ({"candidates": []}, "$.candidates"),
        ({"candidates": [{}] * 6}, "$.candidates"),
        ({"candidates": [{"value_per_click": -1}]}, "$.candidates[0].value_per_click"),
    ],
)
def test_a_bad_value_is_named_by_its_path(run_app: RunApp, change: dict[str, Any], path: str) -> None:
    answer = run_app(max_candidates=5).post({**request_of(ROWS[:1]), **change})
    assert answer.status_code == 422
    assert answer.json()["error"]["code"] == "invalid_field"
    assert answer.json()["error"]["path"] == path


def test_unknown_names_are_ignored_and_counted(run_app: RunApp) -> None:
    app = run_app()
    plain = request_of(ROWS[:2])
    odd = request_of(ROWS[:2])
    odd["context"] = {**odd["context"], "sight": "s1", "nested": {"deep": [None]}}
    odd["candidates"][1]["features"] = {**odd["candidates"][1]["features"], "site": "not of a candidate"}
    assert app.post(odd).json()["results"] == app.post(plain).json()["results"]
    metrics = app.metrics()
    for name in ("sight", "nested", "site"):
        assert metrics[f'bidlight_unknown_names_total{{arm="control",name="{name}"}}'] == 1


def test_missing_and_unseen_values_are_counted(run_app: RunApp) -> None:
    app = run_app()
    app.post({"context": {"history": ["a1", "new"]}, "candidates": [{"features": {"ad": "new"}}, {}]})
    metrics = app.metrics()

    def count(metric: str, field: str) -> float:
        return metrics[f'bidlight_{metric}_features_total{{arm="control",field="{field}"}}']

    names = ("site", "hour", "history", "ad", "campaign")
    assert [count("missing", name) for name in names] == [2, 2, 0, 1, 2]
    assert [count("oov", name) for name in names] == [0, 0, 2, 1, 0]


def test_arms_are_pinned_and_split(run_app: RunApp, bundles: dict[str, Path]) -> None:
    arms = (f"control={bundles['alpha']}:50", f"treatment={bundles['beta']}:50")
    app = run_app(arms=arms)
    request = request_of(ROWS[:1])
    pinned = {name: app.post(request, {"x-arm": name}) for name in ("control", "treatment")}
    assert {name: answer.headers["x-arm"] for name, answer in pinned.items()} == {n: n for n in pinned}
    pctrs = {name: answer.json()["results"][0]["pctr"] for name, answer in pinned.items()}
    assert pctrs["control"] != pctrs["treatment"]
    unknown = app.post(request, {"x-arm": "tretment"})
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "unknown_arm")

    def arm_of(headers: dict[str, str], **fields: Any) -> str:
        return app.post({**request, **fields}, headers).json()["arm"]

    for key in (f"user-{n}" for n in range(20)):
        arm = arm_of({"x-split-key": key})
        assert arm_of({"x-split-key": key}, user_id="another") == arm
        assert arm_of({}, user_id=key) == arm
        assert arm_of({}, id=key) == arm
    assert {arm_of({"x-split-key": f"user-{n}"}) for n in range(20)} == {"control", "treatment"}
    listed = app.get("/arms").json()["arms"]
    assert [(arm["name"], arm["weight"], arm["share"], arm["variant"]) for arm in listed] == [
        ("control", 50.0, 0.5, "float32"),
        ("treatment", 50.0, 0.5, "float32"),
    ]


def test_arms_repeat_what_the_export_warned_of(
    run_app: RunApp, bundles: dict[str, Path], tmp_path: Path
) -> None:
    warned = shutil.copytree(bundles["alpha"], tmp_path / "warned")
    manifest = json.loads((warned / "manifest.json").read_bytes())
    (warned / "manifest.json").write_text(json.dumps({**manifest, "warnings": ["PCOC is 1.4"]}))
    app = run_app(arms=(f"a={warned}", f"b={bundles['beta']}"))
    assert [arm["warnings"] for arm in app.get("/arms").json()["arms"]] == [["PCOC is 1.4"], []]


def test_what_is_missing_stands_beside_what_was_in_training(
    run_app: RunApp, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    missing = {"site": 0.25, "hour": 0.0, "history": 1.0, "ad": 0.0, "campaign": 0.0}
    bundle = write_tiny_bundle(tmp_path / "told", missing=missing)
    app = run_app(arms=(f"a={bundle}",))

    def fields() -> dict[str, Any]:
        (arm,) = app.get("/arms").json()["arms"]
        return {field["name"]: field for field in arm["fields"]}

    for name, share in missing.items():
        assert fields()[name]["missing"] == {"served": None, "training": share}
        assert app.metrics()[f'bidlight_trained_missing_share{{arm="a",field="{name}"}}'] == share
    assert (fields()["hour"]["kind"], fields()["hour"]["role"]) == ("numeric", "context")
    request = {
        "context": {"site": "s1"},
        "candidates": [{"features": {"ad": f"a{n % 10}"}} for n in range(5)],
    }
    for _ in range(200):
        assert app.post(request).status_code == 200
    app.app.served.publish()
    served = {name: field["missing"]["served"] for name, field in fields().items()}
    assert served == {"site": 0.0, "hour": 1.0, "history": 1.0, "ad": 0.0, "campaign": 1.0}
    assert (
        "arm a: fields are missing unlike in the training part: 'hour' in 100.0% of the rows (0.0%), "
        in caplog.text
    )


def test_a_bundle_that_does_not_say_what_was_missing_serves(run_app: RunApp) -> None:
    app = run_app()
    assert app.post(request_of(ROWS[:1])).status_code == 200
    app.app.served.publish()
    (arm,) = app.get("/arms").json()["arms"]
    assert {field["missing"]["training"] for field in arm["fields"]} == {None}
    assert all(field["missing"]["served"] in (0.0, 1.0) for field in arm["fields"])


def test_a_key_has_the_same_arm_in_a_header_and_in_the_body(
    run_app: RunApp, bundles: dict[str, Path]
) -> None:
    app = run_app(arms=(f"a={bundles['alpha']}", f"b={bundles['beta']}"))
    for key in (f"Zoë-{n}" for n in range(30)):
        in_body = app.post({**request_of(ROWS[:1]), "user_id": key}).json()["arm"]
        as_header = app.post(request_of(ROWS[:1]), {"x-split-key": key.encode()}).json()["arm"]
        assert as_header == in_body
    assert app.post(request_of(ROWS[:1]), {"x-split-key": b"\xff\xfe"}).status_code == 200
    unknown = app.post(request_of(ROWS[:1]), {"x-arm": b"\xffcontr\xc3\xb6l"})
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "unknown_arm")


def test_bodies_and_media_types_that_are_refused(run_app: RunApp) -> None:
    app = run_app(max_body_bytes=1000)
    cases: list[tuple[bytes, dict[str, str], int, str]] = [
        (b"{", {"content-type": "application/json"}, 400, "malformed_body"),
        (b"\xc1", {"content-type": "application/msgpack"}, 400, "malformed_body"),
        (b"{}", {"content-type": "text/plain"}, 415, "unsupported_media_type"),
        (
            b"{}",
            {"content-type": "application/json", "content-encoding": "gzip"},
            415,
            "unsupported_media_type",
        ),
        (b" " * 1001, {"content-type": "application/json"}, 413, "body_too_large"),
        (b" " * 1001, {"content-type": "application/json", "content-length": "5"}, 413, "body_too_large"),
    ]
    for body, headers, status, code in cases:
        answer = app.post(body, headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert app.metrics()['bidlight_requests_total{arm="",outcome="body_too_large"}'] == 2


def test_the_bid_policy_of_the_settings(run_app: RunApp) -> None:
    request = request_of(ROWS[:1])
    pctr = run_app().post(request).json()["results"][0]["pctr"]
    capped = run_app(bid_multiplier=2.0, bid_cap=round(pctr, 6)).post(request).json()["results"][0]
    assert capped == {"id": "ad-0", "pctr": pctr, "bid": round(pctr, 6)}
    shaded = run_app(bid_win_price=0.2).post(request).json()["results"][0]["bid"]
    assert shaded == round(math.sqrt(0.2 * pctr * 1.25 + 0.04) - 0.2, 6) < pctr * 1.25 / 2
    app = run_app(bid_floor=1000.0)
    assert app.post(request).json()["results"][0]["bid"] is None
    assert app.metrics()['bidlight_candidates_total{arm="control",outcome="no_bid"}'] == 1


def test_a_bid_of_zero_micros_is_none_and_is_counted_so(run_app: RunApp) -> None:
    app = run_app()
    rows = [{"value_per_click": 1e-7, "features": {}}, {"value_per_click": 0.0}, {"value_per_click": 10.0}]
    results = app.post({"candidates": rows}).json()["results"]
    assert [result["bid"] is None for result in results] == [True, True, False]
    counted = app.metrics()
    assert counted['bidlight_candidates_total{arm="control",outcome="no_bid"}'] == 2
    assert counted['bidlight_candidates_total{arm="control",outcome="bid"}'] == 1


def test_other_methods_and_paths(run_app: RunApp) -> None:
    app = run_app()
    answer = app.get("/predict")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    answer = app.get("/nowhere")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
    answer = app.runner.run(app.client.post("/readyz"))
    assert (answer.status_code, answer.json()["error"]["code"]) == (405, "method_not_allowed")
    assert app.get("/healthz").status_code == app.get("/readyz").status_code == 200


def test_a_full_queue_refuses_and_a_passed_deadline_is_not_computed(run_app: RunApp) -> None:
    app = run_app(max_candidates=4, max_queued_rows=4, max_batch_rows=2)

    async def send(count: int, **fields: Any) -> list[Any]:
        body = {**request_of(ROWS[:4]), **fields}
        return await asyncio.gather(*[app.client.post("/predict", json=body) for _ in range(count)])

    answers = app.runner.run(send(3))
    assert sorted(answer.status_code for answer in answers) == [200, 429, 429]
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert (refused.headers["retry-after"], refused.json()["error"]["code"]) == ("1", "overloaded")
    late = app.runner.run(send(1, tmax_ms=1e-6))[0]
    assert (late.status_code, late.json()["error"]["code"]) == (429, "overloaded")
    assert app.runner.run(send(1, tmax_ms=60_000))[0].status_code == 200
    counted = app.metrics()
    for outcome, count in (("ok", 2), ("overloaded", 2), ("too_late", 1)):
        assert counted[f'bidlight_requests_total{{arm="control",outcome="{outcome}"}}'] == count


def test_not_ready_before_the_arms_are_open(bundles: dict[str, Path]) -> None:
    from httpx import ASGITransport, AsyncClient

    from service.http.app import create_app
    from service.settings import Settings

    async def scenario() -> None:
        app = create_app(Settings(arms=(f"control={bundles['alpha']}",)))
        async with AsyncClient(transport=ASGITransport(app), base_url="http://test") as client:  # type: ignore[arg-type]
            for answer in (
                await client.post("/predict", json=request_of(ROWS[:1])),
                await client.get("/readyz"),
            ):
                assert (answer.status_code, answer.json()["error"]["code"]) == (503, "not_ready")
            assert (await client.get("/healthz")).status_code == 200

    asyncio.run(scenario())


def test_a_client_that_leaves_while_it_waits_is_dropped(run_app: RunApp) -> None:
    """Two large requests queue more than a batch; the second one's connection closes before it runs."""
    app = run_app(max_batch_rows=2, max_candidates=100)
    body = json.dumps(request_of(ROWS * 5)).encode()
    sent: list[Any] = []

    async def call(leaves: bool) -> None:
        messages = iter([{"type": "http.request", "body": body}, {"type": "http.disconnect"}])

        async def receive() -> Any:
            message = next(messages, None)
            if message is None or (message["type"] == "http.disconnect" and not leaves):
                await asyncio.Event().wait()
            return message

        async def send(message: Any) -> None:
            sent.append((leaves, message))

        headers = [(b"content-type", JSON.media_type)]
        scope = {"type": "http", "method": "POST", "path": "/predict", "headers": headers}
        await app.app(scope, receive, send)

    async def scenario() -> None:
        await asyncio.gather(call(leaves=False), call(leaves=True))

    app.runner.run(scenario())
    assert [message.get("status") for leaves, message in sent] == [200, None]
    assert not any(leaves for leaves, _ in sent)
    metrics = app.metrics()
    assert metrics['bidlight_requests_total{arm="control",outcome="client_left"}'] == 1
    assert metrics['bidlight_batch_rows_sum{arm="control"}'] == 60


def test_the_clock_of_a_request_starts_at_its_headers(run_app: RunApp) -> None:
    """A slow body uses up tmax_ms: it limits how long the client waits."""
    app = run_app()
    body = json.dumps(request_of(ROWS[:1], tmax_ms=20)).encode()
    statuses: list[int] = []

    async def scenario() -> None:
        parts = iter([(body[:10], True), (body[10:], False)])

        async def receive() -> Any:
            part, more = next(parts)
            if not more:
                started = time.perf_counter()
                while time.perf_counter() - started < 0.03:
                    await asyncio.sleep(0.01)
            return {"type": "http.request", "body": part, "more_body": more}

        async def send(message: Any) -> None:
            statuses.append(message.get("status", 0))

        headers = [(b"content-type", JSON.media_type)]
        await app.app(
            {"type": "http", "method": "POST", "path": "/predict", "headers": headers}, receive, send
        )

    app.runner.run(scenario())
    assert statuses == [429, 0]


@pytest.mark.usefixtures("nothing_is_exempt")
def test_the_garbage_collector_ignores_bundles(run_app: RunApp) -> None:
    assert gc.get_freeze_count() == 0
    run_app()
    assert gc.get_freeze_count() > 10_000
