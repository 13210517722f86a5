"""What is counted, and when it is in the exposition."""

from __future__ import annotations

import asyncio
import json
import random
import shutil
import sys
import threading
import time
import tracemalloc
import weakref
from collections.abc import Callable, Collection
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from service.bundle.schema import Field, Kind, Role, Schema, Vocabulary
from service.http.prediction import Prediction
from service.metrics.families import Metrics
from service.metrics.memory import CountMemory
from service.metrics.names import MAX_UNKNOWN_NAMES, OTHER_NAMES
from service.metrics.series import Gauge
from service.quality import FULL
from service.scoring.batcher import BatchReport
from service.scoring.meter import FOUND, OK, PENDING_ANSWERS, PENDING_BATCHES, ArmMeter
from service.scoring.rows import BatchRows, RequestRows
from service.settings import Settings
from tests.running import JSON, RunningApp, read_metrics
from tests.tiny_bundle import tiny_rows, tiny_schema, write_tiny_bundle

ONE_ROW = BatchReport(rows=1, callers=1, queue_seconds=0.0)
BODY = {"context": tiny_rows(1)[0]["context"], "candidates": [{"id": "a", "value_per_click": 1.0}]}


@dataclass
class EndedRequest:
    """A request that has ended, as a meter reads it."""

    started: float = 0.0
    decode_seconds: float = 0.0
    encode_seconds: float = 0.0
    unknown_names: Collection[str] = ()
    unknown_ads: int = 0
    user_lookup: str | None = None
    bids: int = 0
    no_bids: int = 0
    is_plain: bool = False
    quality: str = FULL


def answered_in(seconds: float) -> EndedRequest:
    return EndedRequest(started=time.perf_counter() - seconds)


def test_a_meter_counts_features_by_field() -> None:
    metrics = Metrics()
    meter = ArmMeter(metrics, "control", tiny_schema())
    # site hour history(3), and ad campaign
    contexts = np.array([[0, 2, 0, 0, 0], [1, 0, 1, 1, 0], [2, 2, 2, 0, 0]], np.int32)
    candidates = np.array([[1, 2], [3, 0], [0, 1], [2, 2]], np.int32)
    parts = zip(contexts, np.split(candidates, [1, 3]), strict=True)
    batch = BatchRows.of([RequestRows(context, ads) for context, ads in parts])
    report = BatchReport(rows=4, callers=3, queue_seconds=0.0)
    meter.count_batch(report, batch, np.array([0.1, 0.2, 0.2, 0.9]), 0.5, 0.25)
    for _ in range(2):  # what was published is not published again
        meter.publish(5)
    found = read_metrics(metrics.exposition()[0].decode())

    def count(metric: str, field: str) -> float:
        return found[f'bidlight_{metric}_features_total{{arm="control",field="{field}"}}']

    fields = [field.name for field in tiny_schema().fields]
    assert [count("missing", name) for name in fields] == [1, 2, 1, 1, 1]
    assert [count("oov", name) for name in fields] == [2, 0, 4, 1, 1]
    assert found['bidlight_queued_rows{arm="control"}'] == 5
    assert (found['bidlight_pctr_count{arm="control"}'], found['bidlight_pctr_sum{arm="control"}']) == (
        4,
        1.4,
    )
    assert found['bidlight_stage_seconds_total{arm="control",stage="inference"}'] == 0.5
    assert found['bidlight_stage_seconds_total{arm="control",stage="calibration"}'] == 0.25


@pytest.mark.parametrize("role", Role)
def test_features_of_one_role_only_are_counted(role: Role) -> None:
    metrics = Metrics()
    schema = Schema((Field("site", Kind.CATEGORICAL, role, Vocabulary(("a",))),))
    meter = ArmMeter(metrics, "control", schema)
    none, missing, unseen = (np.array(ids, np.int32) for ids in ([], [0], [1]))
    if role is Role.CONTEXT:
        requests = [RequestRows(missing, np.empty((3, 0), np.int32)), RequestRows(unseen, none[None])]
    else:
        requests = [RequestRows(none, np.array([[0], [0], [0]], np.int32)), RequestRows(none, unseen[None])]
    report = BatchReport(rows=4, callers=2, queue_seconds=0.0)
    meter.count_batch(report, BatchRows.of(requests), np.full(4, 0.5), 0.0, 0.0)
    meter.publish(0)
    found = read_metrics(metrics.exposition()[0].decode())
    assert found['bidlight_missing_features_total{arm="control",field="site"}'] == 3
    assert found['bidlight_oov_features_total{arm="control",field="site"}'] == 1


def batch_of(rows: int) -> BatchRows:
    """A batch of one request with so many rows."""
    return BatchRows.of([RequestRows(np.zeros(5, np.int32), np.zeros((rows, 2), np.int32))])


def test_many_batches_are_counted_after_their_answers_are_out() -> None:
    metrics = Metrics()
    meter = ArmMeter(metrics, "control", tiny_schema())
    batch, pctrs = batch_of(1), np.array([0.5])
    most = 0

    async def answer(outcome: asyncio.Future[int]) -> None:
        nonlocal most
        pending = await outcome
        assert len(meter._reports) == pending  # nothing was settled on the way
        most = max(most, pending)
        meter.count_request(answered_in(0.001), OK)

    async def run_batches() -> None:
        for _ in range(3 * PENDING_BATCHES):
            outcome: asyncio.Future[int] = asyncio.get_running_loop().create_future()
            task = asyncio.create_task(answer(outcome))
            await asyncio.sleep(0)
            pending = len(meter._reports)
            meter.count_batch(ONE_ROW, batch, pctrs, 0.0, 0.0)
            outcome.set_result(pending + 1)
            await task

    asyncio.run(run_batches())
    assert PENDING_BATCHES < most < PENDING_BATCHES + 4
    meter.publish(0)
    found = read_metrics(metrics.exposition()[0].decode())
    for name in ("request_seconds_count", "batch_rows_count", "batch_rows_sum", "pctr_count"):
        assert found[f'bidlight_{name}{{arm="control"}}'] == 3 * PENDING_BATCHES


def test_batches_refusals_and_names() -> None:
    metrics = Metrics()
    meter = ArmMeter(metrics, "control", tiny_schema())
    report = BatchReport(rows=7, callers=2, queue_seconds=0.25)
    meter.count_batch(report, batch_of(7), np.full(7, 0.5), 0.0, 0.0)
    metrics.refuse("", "malformed_body")
    metrics.refuse("", "malformed_body")
    meter.count_request(EndedRequest(unknown_names=[f"name-{n}" for n in range(30)]), OK)
    meter.count_request(EndedRequest(unknown_names=['odd "quoted"\n', "name-3"]), "overloaded")
    meter.publish(0)
    found = read_metrics(metrics.exposition()[0].decode())
    assert found['bidlight_batch_rows_sum{arm="control"}'] == 7
    assert found['bidlight_batch_requests_sum{arm="control"}'] == 2
    assert found['bidlight_stage_seconds_total{arm="control",stage="queue"}'] == 0.25
    assert found['bidlight_requests_total{arm="",outcome="malformed_body"}'] == 2
    assert found['bidlight_unknown_names_total{arm="control",name="name-3"}'] == 2
    assert found[f'bidlight_unknown_names_total{{arm="control",name="{OTHER_NAMES}"}}'] == 11


def test_all_of_a_request_is_counted_however_it_ended() -> None:
    metrics = Metrics()
    meter = ArmMeter(metrics, "control", tiny_schema())
    ended = EndedRequest(
        0.0, 0.5, 0.25, ("name",), unknown_ads=3, user_lookup="late", bids=2, no_bids=1, is_plain=True
    )
    meter.count_request(ended, OK)
    meter.count_request(ended, "inference_failed")
    meter.count_request(EndedRequest(user_lookup=FOUND), "overloaded")
    meter.publish(0)
    found = read_metrics(metrics.exposition()[0].decode())
    for name, labels, expected in (
        ("requests_total", 'outcome="ok"', 1),
        ("requests_total", 'outcome="inference_failed"', 1),
        ("requests_total", 'outcome="overloaded"', 1),
        ("candidates_total", 'outcome="bid"', 2),
        ("candidates_total", 'outcome="no_bid"', 1),
        ("stage_seconds_total", 'stage="decode"', 1.0),
        ("stage_seconds_total", 'stage="encode"', 0.5),
        ("unknown_names_total", 'name="name"', 2),
        ("user_is_missing_total", 'reason="late"', 2),
    ):
        assert found[f'bidlight_{name}{{arm="control",{labels}}}'] == expected
    assert found['bidlight_unknown_ads_total{arm="control"}'] == 6
    assert found['bidlight_plain_requests_total{arm="control"}'] == 1
    assert found['bidlight_user_lookups_total{arm="control"}'] == 3
    assert found['bidlight_request_seconds_count{arm="control"}'] == 1


def test_a_batch_that_fails_is_not_counted(
    run_app: Callable[..., RunningApp], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: BatchRows) -> None:
        raise RuntimeError("the graph failed")

    app = run_app()
    with monkeypatch.context() as patched:
        patched.setattr(app.app.arms[0].predictor.graphs, "run", fail)
        assert app.post(BODY).status_code == 500
    assert app.post(BODY).status_code == 200
    found = app.metrics()
    for name in ("batch_rows_count", "batch_rows_sum", "batch_requests_sum", "pctr_count"):
        assert found[f'bidlight_{name}{{arm="control"}}'] == 1


def test_reloads_leave_no_labels_of_what_is_served_no_more(
    run_app: Callable[..., RunningApp], bundles: dict[str, Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(bundles["alpha"], tmp_path / "bundle")
    app = run_app(arms=(f"control={folder}", f"treatment={bundles['beta']}"))
    before = app.metrics().keys()
    for number in range(3):
        extra = Field(f"new-{number}", Kind.CATEGORICAL, Role.CONTEXT, Vocabulary(("a",)))
        context = [field for field in tiny_schema().fields if field.role is Role.CONTEXT]
        candidate = [field for field in tiny_schema().fields if field.role is Role.CANDIDATE]
        schema = Schema((*context, extra, *candidate))
        write_tiny_bundle(folder, name=f"newer-{number}", seed=number, schema=schema)
        app.runner.run(app.app.served.reload())
        assert app.post(BODY, headers={"x-arm": "control"}).status_code == 200
    found = app.metrics()
    assert found['bidlight_missing_features_total{arm="control",field="new-2"}'] == 1
    assert found['bidlight_reloads_total{outcome="ok"}'] == 3
    infos = [name for name in found if name.startswith("bidlight_bundle_info")]
    assert [("newer-2@" in name, "beta@" in name) for name in sorted(infos)] == [(True, False), (False, True)]
    grown = {name for name in found.keys() - before if not name.startswith("bidlight_bundle_info")}
    assert all("new-2" in name or "bidlight_reload" in name for name in grown), grown


def test_a_reload_allows_no_more_unknown_names() -> None:
    metrics = Metrics()
    for reload in range(3):
        meter = ArmMeter(metrics, "control", tiny_schema())
        names = ["of-all", *(f"name-{reload}-{n}" for n in range(30))]
        meter.count_request(EndedRequest(unknown_names=names), OK)
        meter.publish(0)
    found = read_metrics(metrics.exposition()[0].decode())
    counts = {name: count for name, count in found.items() if name.startswith("bidlight_unknown_names_total")}
    assert len(counts) == MAX_UNKNOWN_NAMES + 1
    assert sum(counts.values()) == 3 * 31
    assert counts['bidlight_unknown_names_total{arm="control",name="of-all"}'] == 3


def test_all_workers_together_label_so_many_unknown_names() -> None:
    memory = CountMemory(parts=4)
    workers = [Metrics(memory, number) for number in (1, 2, 3)]
    sent = 0
    for number in range(30):
        for worker, metrics in enumerate(workers):
            names = ["of-all", f"name-{worker}-{number}", *(f"twenty-{n}" for n in range(number))]
            metrics.unknown_names_of("control").count(names)
            metrics.unknown_names_of("treatment").count(["another"])
            metrics.unknown_names_of("control").publish()
            sent += len(names)
    memory.end_tenure(1)
    successor = Metrics(memory, 1)
    successor.unknown_names_of("control").count(["of-all", "new"])
    successor.unknown_names_of("control").publish()
    counts = {
        name: count
        for name, count in read_metrics(successor.exposition()[0].decode()).items()
        if name.startswith("bidlight_unknown_names_total") and "control" in name
    }
    assert len(counts) == MAX_UNKNOWN_NAMES + 1
    assert sum(counts.values()) == sent + 2
    assert counts['bidlight_unknown_names_total{arm="control",name="of-all"}'] == 91
    assert 'bidlight_unknown_names_total{arm="control",name="new"}' not in counts


def test_a_long_name_gets_no_label_and_many_names_take_no_loop() -> None:
    metrics = Metrics()
    meter = ArmMeter(metrics, "control", tiny_schema())
    meter.count_request(EndedRequest(unknown_names={"n" * 65, "short"}), OK)
    for number in range(3):
        names = {f"name-{number}-{n}" for n in range(50_000)}
        meter.count_request(EndedRequest(unknown_names=names), OK)
    started = time.process_time()
    for _ in range(100):
        meter.count_request(EndedRequest(unknown_names=names), OK)
    assert time.process_time() - started < 0.1  # a loop would take seconds
    meter.publish(0)
    found = read_metrics(metrics.exposition()[0].decode())
    counts = {name: count for name, count in found.items() if name.startswith("bidlight_unknown_names_total")}
    assert len(counts) == MAX_UNKNOWN_NAMES + 1
    assert sum(counts.values()) == 2 + 103 * 50_000
    assert not any("nnnn" in name for name in counts)


def test_two_services_in_a_process_do_not_mix() -> None:
    first, second = Metrics(), Metrics()
    first.refuse("", "overloaded")
    name = 'bidlight_requests_total{arm="",outcome="overloaded"}'
    assert name in read_metrics(first.exposition()[0].decode())
    assert name not in read_metrics(second.exposition()[0].decode())


def test_many_answers_take_no_memory_until_a_scrape() -> None:
    metrics = Metrics()
    meter = ArmMeter(metrics, "control", tiny_schema())
    batch, pctrs = batch_of(1), np.array([0.5])

    async def answer() -> None:
        for _ in range(300):
            meter.count_batch(ONE_ROW, batch, pctrs, 0.0, 0.0)
            for _ in range(100):
                meter.count_request(answered_in(random.random()), OK)
            await asyncio.sleep(0)

    with asyncio.Runner() as runner:
        runner.run(asyncio.sleep(0))
        tracemalloc.start()
        runner.run(answer())
        kept, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert kept < 3 * PENDING_ANSWERS * (sys.getsizeof(0.0) + 8)
    for _ in range(2):
        meter.publish(0)
        found = read_metrics(metrics.exposition()[0].decode())
        assert found['bidlight_requests_total{arm="control",outcome="ok"}'] == 30_000
        assert found['bidlight_request_seconds_count{arm="control"}'] == 30_000
        assert found['bidlight_batch_rows_count{arm="control"}'] == 300


def test_the_last_answers_of_a_replaced_arm_are_its_own_and_counted(
    run_app: Callable[..., RunningApp], bundles: dict[str, Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(bundles["alpha"], tmp_path / "bundle")
    app = run_app(arms=(f"control={folder}",))
    before = app.app.arms[0].predictor.manifest.id.encode()

    async def answer_after_a_reload() -> None:
        prediction = Prediction(app.app.predict_service, 0.0)
        prediction.read_headers({b"content-type": b"application/json"})
        pctrs = await prediction.submit(json.dumps(BODY).encode())
        write_tiny_bundle(folder, name="newer", seed=7)
        await app.app.served.reload()
        assert app.app.arms[0].predictor.manifest.id.startswith("newer@")
        app.app.served.publish()  # the queue is empty, but the request has not ended
        head, body = prediction.answer(pctrs)
        assert dict(head.headers)[b"x-bundle"] == before == json.loads(body)["bundle"].encode()
        prediction.end(OK)

    app.runner.run(answer_after_a_reload())
    assert app.post(BODY).status_code == 200
    found = app.metrics()
    assert found['bidlight_requests_total{arm="control",outcome="ok"}'] == 2
    assert found['bidlight_candidates_total{arm="control",outcome="bid"}'] == 2
    assert found['bidlight_pctr_count{arm="control"}'] == 2


def test_a_replaced_arm_is_freed_with_its_last_answer(
    run_app: Callable[..., RunningApp], bundles: dict[str, Path]
) -> None:
    app = run_app(arms=(f"control={bundles['alpha']}",))
    predictor = weakref.ref(app.app.arms[0].predictor)

    async def answer_after_a_reload() -> None:
        prediction = Prediction(app.app.predict_service, 0.0)
        prediction.read_headers({b"content-type": b"application/json"})
        pctrs = await prediction.submit(json.dumps(BODY).encode())
        await app.app.served.reload()
        app.app.served.publish()
        assert predictor() is not None
        prediction.answer(pctrs)
        prediction.end(OK)

    app.runner.run(answer_after_a_reload())
    app.app.served.publish()
    assert predictor() is None


def test_a_reload_that_fails_for_whatever_reason_changes_nothing(
    run_app: Callable[..., RunningApp], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_thread(_: object) -> None:
        raise RuntimeError("can't start new thread")

    app = run_app()
    before = app.app.arms
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", no_thread)
        app.runner.run(app.app.served.reload())
    assert app.app.arms is before
    assert app.post(BODY).status_code == 200
    assert app.metrics()['bidlight_reloads_total{outcome="refused"}'] == 1


def test_metrics_that_cannot_be_published_for_a_moment_are_published_later(
    bundles: dict[str, Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("a fault of the service")

    settings = Settings(arms=(f"control={bundles['alpha']}",))
    with closing(RunningApp(settings, publish_seconds=0.001)) as app:

        def counted() -> float:
            found = read_metrics(app.app.metrics.exposition()[0].decode())
            return found['bidlight_requests_total{arm="control",outcome="ok"}']

        def wait_until(condition: Callable[[], bool]) -> None:
            deadline = time.monotonic() + 20.0
            while not condition():
                assert time.monotonic() < deadline
                app.runner.run(asyncio.sleep(0.01))

        with monkeypatch.context() as patched:
            patched.setattr(Gauge, "set", fail)
            wait_until(lambda: "cannot be published" in caplog.text)
            assert app.post(BODY).status_code == 200
        wait_until(lambda: counted() == 1)
    assert caplog.text.count("cannot be published") == 1


def test_a_request_is_no_longer_under_way_however_it_ends(run_app: Callable[..., RunningApp]) -> None:
    app = run_app(max_queued_rows=1, max_candidates=1)
    predictor = app.app.arms[0].predictor

    async def several() -> list[int]:
        answers = [app.client.post("/predict", json=BODY) for _ in range(5)]  # the queue has room for one
        return [answer.status_code for answer in await asyncio.gather(*answers)]

    assert sorted(set(app.runner.run(several()))) == [200, 429]
    refused = [{}, {**BODY, "context": {"hour": "noon"}}, {**BODY, "candidates": []}]
    assert [app.post(body).status_code for body in refused] == [422] * 3
    assert app.post(BODY, headers={"x-arm": "nobody"}).status_code == 404
    assert predictor.under_way == 0


def test_without_metrics_nothing_is_counted_and_metrics_says_so(run_app: Callable[..., RunningApp]) -> None:
    app, metered = run_app(metrics="off"), run_app()
    body = json.dumps(BODY).encode()
    assert app.post(body, JSON).content == metered.post(body, JSON).content
    assert app.post(b"{").status_code == 400
    answer = app.get("/metrics")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
    assert "--metrics on" in answer.json()["error"]["message"]
    counted = read_metrics(app.app.metrics.exposition()[0].decode())
    assert not [name for name in counted if name.startswith("bidlight_requests_total")]


def test_what_is_rare_and_alerted_on_is_shown_before_it_happens(run_app: Callable[..., RunningApp]) -> None:
    """Prometheus sees no increase of a series that begins at 1."""
    app = run_app()
    found = app.metrics()
    rare = {
        "bidlight_reloads_total": ['outcome="refused"'],
        "bidlight_catalogue_refreshes_total": ['outcome="failed"', 'outcome="refused"'],
        "bidlight_user_refreshes_total": ['outcome="failed"', 'outcome="refused"'],
        "bidlight_feedback_log_events_total": ['outcome="lost"'],
        "bidlight_example_log_requests_total": ['outcome="lost"'],
        "bidlight_accept_pauses_total": ['reason="connections"', 'reason="system"'],
        "bidlight_metric_faults_total": ['reason="full"', 'reason="unreadable"'],
    }
    for name, labels in rare.items():
        assert [found[f"{name}{{{label}}}"] for label in labels] == [0] * len(labels)
    for arm in app.app.arms:
        assert found[f'bidlight_cannot_bid_total{{arm="{arm.name}"}}'] == 0
        for outcome in ("inference_failed", "row_failed", "internal_error"):
            assert found[f'bidlight_requests_total{{arm="{arm.name}",outcome="{outcome}"}}'] == 0
    assert found["bidlight_serving_processes"] == 1
