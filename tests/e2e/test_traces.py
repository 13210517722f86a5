"""Traces of a real service with two workers, at a collector that speaks OTLP over HTTP."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.bundle.native import is_native
from service.features.store import pack
from tests.e2e.raw_http import body_of, message, read_answer, wait_until
from tests.feature_stores import fill
from tests.running import JSON, RunningService, running_service

pytest.importorskip("opentelemetry.proto")

from tests.collector import Collector, Span, running_collector

SERVER, ERROR = 2, 2  # as OTLP numbers kinds and statuses
CALLER = "00f067aa0ba902b7"
STEPS = ["read", "decode", "encode", "queue", "inference", "calibration", "answer"]


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with running_collector() as running:
        yield running


@pytest.fixture(scope="module")
def running(
    bundles: dict[str, Path], collector: Collector, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningService]:
    folder = tmp_path_factory.mktemp("traces")
    (folder / "tokens").write_text("a-token-of-sixteen-letters\n")
    options = ["--arm", f"control={bundles['control']}", "--workers", "2", "--trace-share", "0"]
    options += ["--token-file", str(folder / "tokens"), "--max-batch-rows", "8"]
    variables = {
        **collector.variables,
        "OTEL_SERVICE_NAME": "bids",
        "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=test",
    }
    with running_service(folder, options, variables) as service:
        yield service


def ask(
    service: RunningService, trace: int, content: bytes | None = None, *, flags: str = "01", **more: str
) -> httpx.Response:
    """A request of that trace, over a connection of its own, so that any worker may get it."""
    headers = {**JSON, "authorization": "Bearer a-token-of-sixteen-letters"}
    headers |= {"traceparent": f"00-{trace:032x}-{CALLER}-{flags}", "tracestate": "vendor=1", **more}
    with service.client(headers=headers) as client:
        return client.post("/predict", content=content or body_of(3))


def spans_of(collector: Collector, trace: int) -> list[Span]:
    """The spans of a trace once its root has come, which is sent with its children."""
    wait_until(lambda: bool(collector.trace(f"{trace:032x}")))
    return collector.trace(f"{trace:032x}")


def test_a_sampled_parent_is_followed_by_every_worker(running: RunningService, collector: Collector) -> None:
    processes: set[str] = set()
    trace = 1 << 64
    while len(processes) < 2:
        trace += 1
        assert trace < (1 << 64) + 200, "one worker got 200 connections"
        answer = ask(running, trace).json()
        root, *steps = spans_of(collector, trace)
        processes.add(root.resource["service.instance.id"])
        assert (root.name, root.kind, root.parent, root.state, root.status) == (
            *("POST /predict", SERVER, CALLER, "vendor=1", 0),
        )
        assert root.attributes == {
            "http.request.method": "POST",
            "http.route": "/predict",
            "http.response.status_code": 200,
            "url.path": "/predict",
            "url.scheme": "http",
            "bidlight.outcome": "ok",
            "bidlight.arm": "control",
            "bidlight.bundle": answer["bundle"],
            "bidlight.variant": "float32",
            "bidlight.quality": "full",
            "bidlight.candidates": 3,
        }
        assert [step.name for step in steps] == STEPS
        assert {step.parent for step in steps} == {root.id}
        assert [step.start for step in steps] == [root.start, *(step.end for step in steps[:-1])]
        assert steps[-1].end == root.end
        assert steps[4].attributes == {"bidlight.batch_rows": 3}
    assert root.resource["service.name"] == "bids"
    assert root.resource["deployment.environment.name"] == "test"
    assert collector.paths == {"/v1/traces"}


def test_parts_of_a_large_request_are_steps_too(running: RunningService, collector: Collector) -> None:
    assert ask(running, 2, body_of(20)).status_code == 200
    _, *steps = spans_of(collector, 2)
    runs = [(step.name, step.attributes.get("bidlight.batch_rows")) for step in steps[3:-1]]
    part = [("queue", None), ("inference", 8), ("calibration", None)]
    assert runs == [*part, *part, ("queue", None), ("inference", 4), ("calibration", None)]


@pytest.mark.parametrize(
    ("trace", "content", "headers", "status", "outcome"),
    [
        (10, b"{", {}, 400, "malformed_body"),
        (11, b"{}", {"content-type": "text/plain"}, 415, "unsupported_media_type"),
        (12, json.dumps({"context": {}, "candidates": []}).encode(), {}, 422, None),
        (13, None, {"x-arm": "nobody"}, 404, "unknown_arm"),
    ],
)
def test_a_refusal_is_a_span_with_its_status(
    running: RunningService,
    collector: Collector,
    trace: int,
    content: bytes | None,
    headers: dict[str, Any],
    status: int,
    outcome: str | None,
) -> None:
    answer = ask(running, trace, content, **headers)
    assert answer.status_code == status
    root = spans_of(collector, trace)[0]
    assert root.attributes["http.response.status_code"] == status
    assert root.attributes["bidlight.outcome"] == answer.json()["error"]["code"]
    assert outcome in (None, root.attributes["bidlight.outcome"])
    assert root.status == 0  # what a client has caused is no error of the server
    assert "bidlight.arm" not in root.attributes


def test_what_is_not_sampled_leaves_nothing(running: RunningService, collector: Collector) -> None:
    """Neither does a malformed parent, with a share of 0, nor who has no token."""
    assert ask(running, 20, flags="00").status_code == 200
    assert ask(running, 21, traceparent=f"00-{21:032x}-{CALLER}-01-more").status_code == 200
    assert ask(running, 22, authorization="Bearer somebody-else-12345678").status_code == 401
    with running.client(headers={**JSON, "authorization": "Bearer a-token-of-sixteen-letters"}) as client:
        assert client.post("/predict", content=body_of(1)).status_code == 200
    twice = [f"traceparent: 00-{23:032x}-{CALLER}-01", f"traceparent: 00-{24:032x}-{CALLER}-01"]
    with running.connect() as connection:
        connection.sendall(message(body_of(1), "Authorization: Bearer a-token-of-sixteen-letters", *twice))
        assert read_answer(connection)[0] == 200
    before = len({span.trace for span in collector.spans})
    for trace in range(30, 36):  # which both workers send after all of these
        assert ask(running, trace).status_code == 200
        spans_of(collector, trace)
    assert len({span.trace for span in collector.spans}) == before + 6


def test_a_share_of_the_requests_begins_traces_and_a_read_of_the_store_is_a_step(
    bundles: dict[str, Path], collector: Collector, tmp_path: Path
) -> None:
    (tmp_path / "store").mkdir()
    store = f"lmdb://{tmp_path / 'store'}"
    fill(store, "users", {"u1": pack({"site": "s1"})})
    options = ["--arm", f"control={bundles['control']}", "--trace-share", "1", "--predict-through", "asgi"]
    options += ["--feature-store", store]
    variables = {**collector.variables, "OTEL_SERVICE_NAME": "shares"}

    def sent_roots() -> list[Span]:
        sent = [span for span in collector.spans if span.resource["service.name"] == "shares"]
        return sorted((span for span in sent if span.kind == SERVER), key=lambda root: root.start)

    with running_service(tmp_path, options, variables) as service:
        for _ in range(2):
            assert service.post(body_of(1)).status_code == 200
        of_user = {"user_id": "u1", "context": {"hour": 3}, "candidates": [{"features": {"ad": "a1"}}]}
        assert service.post(of_user).status_code == 200
        # Before the stop, which waits for two seconds at most: a loaded machine sends nothing in so little.
        wait_until(lambda: len(sent_roots()) == 3)
        assert service.stop() == 0
    roots = sent_roots()
    assert len({root.trace for root in roots}) == 3
    assert {span.parent for span in roots} == {""}
    steps = [[span.name for span in collector.trace(root.trace)][1:] for root in roots]
    # The native core knows the candidates' ids before the user's features are there.
    encoded = ["encode"] if is_native("on") else []
    assert steps == [STEPS, STEPS, ["read", "decode", *encoded, "store", *STEPS[2:]]]


def test_a_collector_that_is_down_costs_traces_alone(bundles: dict[str, Path], tmp_path: Path) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and does not listen
        variables = {
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"http://127.0.0.1:{nobody.getsockname()[1]}/v1/traces",
            "OTEL_EXPORTER_OTLP_TIMEOUT": "1",
            "OTEL_BSP_SCHEDULE_DELAY": "20",
            "OTEL_BSP_MAX_QUEUE_SIZE": "32",
        }
        options = ["--arm", f"control={bundles['control']}", "--workers", "2", "--trace-share", "1"]
        with running_service(tmp_path, options, variables) as service:

            def is_known(outcome: str) -> bool:
                return service.metrics()[f'bidlight_trace_spans_total{{outcome="{outcome}"}}'] > 0

            with service.client(headers=JSON) as client:

                def has_lost_both() -> bool:
                    for _ in range(50):  # the queue has room for the spans of four
                        assert client.post("/predict", content=body_of(1)).status_code == 200
                    return is_known("dropped") and is_known("failed")

                wait_until(has_lost_both)
            assert service.stop() == 0
        lines = service.errors.read_text().splitlines()
    assert [line for line in lines if "did not take" in line]
    # From each of two workers: that nobody takes them, and at its end what is left.
    assert len(lines) <= 4, lines
    assert not [line for line in lines if "Traceback" in line]
