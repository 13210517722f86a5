"""The rungs of an answer: what the prior gives, by both cores and in any form, and when it answers at all."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.arms.loading import read_arms
from service.bundle.native import IS_BUILT
from service.bundle.store import load_bundle
from service.errors import BadConfiguration
from service.features.store import pack
from service.http.ladder import LONGEST_SECONDS, PRIOR_SHARE, READING_SECONDS, Ladder
from service.scoring.pace import DOUBT, KEPT_BATCHES, Pace
from service.scoring.predictor import Predictor
from service.settings import Settings
from service.shadow import queue as queue_module
from tests import feature_stores
from tests.redis_server import RedisServer
from tests.running import JSON, RunningApp
from tests.service.http.test_killed_arms import steer
from tests.service.http.test_predict_endpoint import ROWS, columns_of, pctrs_of, request_of
from tests.service.http.test_waiting import MAX_QUEUE_MS, MUCH_WORK, TOO_LONG_SECONDS, post, until
from tests.service.http.two_ways import outcome_of, start
from tests.tiny_bundle import tiny_prior, tiny_rows, write_tiny_bundle
from tests.wire import Wire

RunApp = Callable[..., RunningApp]
Pair = tuple[RunningApp, RunningApp]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny", prior=tiny_prior())


def expected(folder: Path, rows: list[dict[str, Any]], *, has_store: bool = False) -> list[float]:
    """What the prior gives rows, from the ids of all their fields."""
    bundle = load_bundle(folder)
    assert bundle.prior is not None
    ids = np.stack([bundle.encoder.encode_row({**row["context"], **row["candidate"]}) for row in rows])
    names, slices = bundle.prior.names, bundle.schema.column_slices
    tables = bundle.prior.tables()
    for name, table in zip(names, tables, strict=True):
        table[0] *= not (has_store and name in bundle.encoder.context_names)
    columns = [ids[:, slices[name].start] for name in names]
    found: list[float] = bundle.prior.pctr(columns, len(rows), tables).tolist()
    return found


def killed(app: RunningApp) -> RunningApp:
    """With its only arm killed."""
    steer(app, "control")
    return app


def slowed(app: RunningApp, seconds: float) -> Predictor:
    """Its only arm, of which a row has taken so long of late."""
    predictor: Predictor = app.app.served.arms[0].predictor
    assert predictor._pace is not None
    for _ in range(20 * KEPT_BATCHES):
        predictor._pace.count(1, seconds)
    return predictor


@pytest.fixture(scope="module")
def pair(folder: Path) -> Iterator[Pair]:
    """The service with the native core and without it, whose arm is killed."""
    both = [start(native, (f"control={folder}",), when_killed="prior") for native in ("on", "off")]
    yield killed(both[0]), killed(both[1])
    for app in both:
        app.close()


VALUES = st.sampled_from(["a0", "a3", "a5", "a9", "s0", "s3", "x", "", None, 0, 7, 11.5, 23, -4, 1003])
FEATURES = st.dictionaries(st.sampled_from(["ad", "campaign", "more"]), VALUES, max_size=3)
CONTEXTS = st.dictionaries(
    st.sampled_from(["site", "hour", "history", "other"]), VALUES | st.just(["a1"]), max_size=4
)


@pytest.mark.skipif(not IS_BUILT, reason="there is no native core")
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(CONTEXTS, st.lists(FEATURES, min_size=1, max_size=5), st.booleans(), st.booleans())
def test_both_cores_answer_alike_by_the_prior(
    pair: Pair, context: dict[str, Any], candidates: list[Any], as_columns: bool, as_json: bool
) -> None:
    request: dict[str, Any] = {"id": "r", "context": context}
    if as_columns:
        rows = len(candidates)
        names = sorted(set().union(*candidates))
        features = {name: [each.get(name) for each in candidates] for name in names}
        request["candidates"] = {"features": features, "value_per_click": [1.25] * rows}
    else:
        request["candidates"] = [{"features": each, "value_per_click": 1.25} for each in candidates]
    encode = msgspec.json.encode if as_json else msgspec.msgpack.encode
    kind = b"application/json" if as_json else b"application/msgpack"
    native, python = (outcome_of(app, encode(request), kind, b"control") for app in pair)
    assert (native.status, native.headers, native.body) == (python.status, python.headers, python.body)
    assert native.counted == python.counted


@pytest.mark.parametrize("as_columns", [False, True])
@pytest.mark.parametrize("native", ["on", "off"])
def test_a_killed_arm_answers_each_candidate_by_its_own_values(
    run_app: RunApp, folder: Path, native: str, as_columns: bool
) -> None:
    app = killed(run_app(arms=(f"control={folder}",), when_killed="prior", native=native))
    rows = [{"context": ROWS[0]["context"], "candidate": row["candidate"]} for row in ROWS[:9]]
    request = request_of(rows)
    # More names than a plain request may have that no field knows: they cost the prior nothing.
    request["context"] = {**request["context"], **{f"unknown {n}": "x" for n in range(40)}}
    answer = app.post(columns_of(request) if as_columns else request).json()
    assert answer["quality"] == "prior"
    assert pctrs_of(answer) == pytest.approx(expected(folder, rows), rel=1e-12)
    assert len(set(pctrs_of(answer))) > 3
    if native == "on" and IS_BUILT:
        assert app.metrics()['bidlight_plain_requests_total{arm="control"}'] == 1.0
    assert app.metrics()['bidlight_unscored_answers_total{arm="control",reason="killed"}'] == 1.0


@pytest.mark.parametrize("native", ["on", "off"])
def test_ads_of_the_catalogue_and_users_that_are_not_looked_up(
    run_app: RunApp, folder: Path, url: str, native: str
) -> None:
    rows = tiny_rows(12, seed=3)
    feature_stores.fill(url, "ads", {f"ad-{n}": pack(row["candidate"]) for n, row in enumerate(rows)})
    app = killed(
        run_app(
            arms=(f"control={folder}",),
            when_killed="prior",
            native=native,
            feature_store=url,
            feature_timeout_ms=1000.0,
        )
    )
    catalogue = app.app.served.arms[0].predictor.known_ads.catalogue
    assert catalogue is not None
    assert len(catalogue._of_columns) == 1  # made before a request needs it
    by_id = [{"id": f"ad-{n}"} for n in range(len(rows))]
    given = {"id": "ad-0", "features": {"ad": "a0"}}  # what it gives wins
    request = {"user_id": "u1", "context": {"hour": 11.5}, "candidates": [*by_id, given, {"id": "?"}]}
    found = pctrs_of(app.post(request).json())
    wanted = [{"context": {"hour": 11.5}, "candidate": row["candidate"]} for row in rows]
    first = {**rows[0]["candidate"], "ad": "a0"}
    wanted += [{"context": {"hour": 11.5}, "candidate": each} for each in (first, {})]
    # A context field that is left out may be the user's: it is not taken for missing.
    assert found == pytest.approx(expected(folder, wanted, has_store=True), rel=1e-12)


def test_what_the_prior_reads_must_be_right(run_app: RunApp, folder: Path) -> None:
    app = killed(run_app(arms=(f"control={folder}",), when_killed="prior"))
    bad = app.post({"context": {"hour": True}, "candidates": [{}]})
    assert (bad.status_code, bad.json()["error"]["path"]) == (422, "$.context.hour")
    bad = app.post({"candidates": [{}, {"features": {"ad": ["a1"]}}]})
    assert (bad.status_code, bad.json()["error"]["path"]) == (422, "$.candidates[1].features.ad")


def test_a_bundle_of_before_has_one_rate(run_app: RunApp, bundles: dict[str, Path]) -> None:
    app = run_app(arms=(f"control={bundles['alpha']}",), when_overloaded="prior", when_killed="prior")
    assert "quality" not in app.post(request_of(ROWS[:3])).json()
    answer = killed(app).post(request_of(ROWS[:3])).json()
    assert pctrs_of(answer) == pytest.approx([1 / 6] * 3)


def test_a_bundle_without_any_rate_is_no_ladder(tmp_path: Path) -> None:
    without = write_tiny_bundle(tmp_path / "without", calibration={"fit_rows": 0, "fit_clicks": 0})
    with_prior = write_tiny_bundle(
        tmp_path / "with", calibration={"fit_rows": 0, "fit_clicks": 0}, prior=tiny_prior(fields=())
    )
    with pytest.raises(BadConfiguration, match="or choose --when-overloaded refuse"):
        read_arms(Settings(arms=(f"a={with_prior}", f"b={without}"), when_overloaded="prior"))
    assert len(read_arms(Settings(arms=(f"a={with_prior}",), when_overloaded="prior"))) == 1


@pytest.mark.parametrize("native", ["on", "off"])
def test_a_full_queue_is_answered_by_the_prior_as_far_as_there_is_time(
    run_app: RunApp, folder: Path, native: str
) -> None:
    options: dict[str, Any] = {"max_queued_rows": 8, "max_candidates": 8, "native": native}
    app = run_app(arms=(f"control={folder}",), when_overloaded="prior", max_queue_ms=1e6, **options)
    rows = [{"context": ROWS[0]["context"], "candidate": row["candidate"]} for row in ROWS[:8]]
    body = msgspec.json.encode({**request_of(rows), "tmax_ms": 60_000})

    async def flood(count: int) -> list[Any]:
        return await asyncio.gather(
            *(app.client.post("/predict", content=body, headers=JSON) for _ in range(count))
        )

    answers = app.runner.run(flood(6))
    qualities = sorted(answer.json().get("quality", "full") for answer in answers)
    assert {answer.status_code for answer in answers} == {200}
    assert qualities[0] == "full"
    assert qualities[-1] == "prior"
    for answer in answers:
        if answer.json().get("quality"):
            assert pctrs_of(answer.json()) == pytest.approx(expected(folder, rows), rel=1e-12)
    counted = app.metrics()
    by_prior = qualities.count("prior")
    assert counted['bidlight_unscored_answers_total{arm="control",reason="queue"}'] == by_prior
    assert counted['bidlight_answers_total{arm="control",quality="prior"}'] == by_prior
    assert counted['bidlight_answers_total{arm="control",quality="full"}'] == 6 - by_prior
    ladder = app.app.predict_service.ladder
    assert ladder is not None
    ladder._credit = -1e9
    refused = [answer.status_code for answer in app.runner.run(flood(6))]
    assert (set(refused), refused.count(200)) == ({200, 429}, qualities.count("full"))
    assert app.app.predict_service.admission.open_work == 0
    assert app.app.served.arms[0].predictor.under_way == 0


def test_a_deadline_that_leaves_no_time_for_a_batch_is_answered_by_the_prior_at_once(
    run_app: RunApp, folder: Path
) -> None:
    app = run_app(arms=(f"control={folder}",), when_overloaded="prior", max_queue_ms=1e6)
    predictor = slowed(app, 0.05)  # three rows would take .15 seconds
    hasty, patient = ({**request_of(ROWS[:3]), "tmax_ms": ms} for ms in (100.0, 60_000.0))
    answer = app.post(hasty).json()
    assert answer["quality"] == "prior"
    assert pctrs_of(answer)[0] == pytest.approx(expected(folder, ROWS[:1])[0])
    assert app.metrics()['bidlight_unscored_answers_total{arm="control",reason="deadline"}'] == 1.0
    assert "quality" not in app.post(request_of(ROWS[:3])).json()
    assert "quality" not in app.post(patient).json()
    # What was measured long ago is doubted, so that no slow batch shuts the model out for ever.
    for _ in range(100 * KEPT_BATCHES):
        predictor._pace.count(1, 0.05)
    by_prior = 0
    while "quality" in app.post(hasty).json():
        by_prior += 1
    assert 0 < by_prior < 1 / DOUBT
    passed = app.post({**request_of(ROWS[:3]), "tmax_ms": 1e-6})  # its client waits no longer
    assert (passed.status_code, passed.json()["error"]["code"]) == (429, "overloaded")


@pytest.mark.parametrize("native", ["on", "off"])
def test_a_look_up_that_takes_the_time_of_the_model_leaves_the_prior(
    run_app: RunApp, folder: Path, redis: RedisServer, native: str
) -> None:
    redis.call("FLUSHALL")
    app = run_app(
        arms=(f"control={folder}",),
        when_overloaded="prior",
        native=native,
        feature_store=redis.url,
        feature_timeout_ms=1000.0,
    )
    predictor = slowed(app, 0.1)
    # Of a second a request waits for half, and more than its rows take is left before it waits.
    request = {**request_of(ROWS[:6]), "user_id": "u1", "tmax_ms": 1000.0, "tracking": False}
    request["context"] = {}
    redis.call("CLIENT", "PAUSE", "1000", "ALL")
    answer = app.post(request).json()
    assert answer["quality"] == "prior"
    assert app.metrics()['bidlight_unscored_answers_total{arm="control",reason="deadline"}'] == 1.0
    assert (predictor.under_way, predictor._batcher._reserved_rows) == (0, 0)


@pytest.mark.parametrize("way", ["parser", "asgi"])
def test_what_has_waited_unread_for_too_long_is_answered_by_the_prior(
    run_app: RunApp, folder: Path, way: str
) -> None:
    app = run_app(
        arms=(f"control={folder}",), when_overloaded="prior", max_queue_ms=MAX_QUEUE_MS, predict_through=way
    )
    service, body = app.app.predict_service, msgspec.json.encode({**request_of(ROWS[:2]), "id": "late"})
    assert service.ladder is not None
    passed = msgspec.json.encode({**request_of(ROWS[:2]), "tmax_ms": MAX_QUEUE_MS})

    ladder = service.ladder

    async def exchange(*bodies: bytes, credit: float = 1e9) -> list[bytes]:
        async with Wire(app.app) as wire:
            found = list[bytes]()
            for one in bodies:
                ladder._credit = credit
                work = service.admission.start(MUCH_WORK)
                await wire.send(post(one))
                await until(lambda: service.admission.waiting == 1)
                await asyncio.sleep(TOO_LONG_SECONDS)
                service.admission.stop(work)
                found += await wire.receive(1)
            return found

    late, broken, gone = app.runner.run(exchange(body, b"{", passed))
    answer = msgspec.json.decode(late.partition(b"\r\n\r\n")[2])
    assert (answer["id"], answer["quality"]) == ("late", "prior")
    wanted = [{"context": ROWS[0]["context"], "candidate": row["candidate"]} for row in ROWS[:2]]
    assert pctrs_of(answer) == pytest.approx(expected(folder, wanted))
    assert (broken[9:12], gone[9:12]) == (b"400", b"429")
    (refused,) = app.runner.run(exchange(body, credit=-1e9))
    assert refused[9:12] == b"429"
    found = app.metrics()
    assert found['bidlight_unscored_answers_total{arm="control",reason="time"}'] == 1.0
    assert found['bidlight_refusals_total{reason="time"}'] == 1.0
    assert found['bidlight_refusals_total{reason="deadline"}'] == 1.0
    assert service.intake.held_bytes == 0
    assert service.admission.open_work == 0


def test_answers_of_the_ladder_have_no_tokens_and_no_revision(
    run_app: RunApp, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "keys").write_text(f"0 {'5e' * 16}\n")
    app = run_app(arms=(f"control={folder}",), when_overloaded="prior", feedback_keys=str(tmp_path / "keys"))
    slowed(app, 0.1)
    request = {**request_of(ROWS[:2]), "tracking": True}
    assert all("token" in each for each in app.post(request).json()["results"])
    answer = app.post({**request, "tmax_ms": 50.0}).json()
    assert list(answer) == ["id", "arm", "bundle", "quality", "results"]
    assert [list(each) for each in answer["results"]] == [["id", "pctr", "bid"]] * 2


@pytest.mark.parametrize("way", ["at once", "after a look-up", "killed"])
@pytest.mark.parametrize("native", ["on", "off"])
def test_nothing_is_learned_from_an_answer_of_the_ladder(
    run_app: RunApp, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, native: str, way: str
) -> None:
    (tmp_path / "keys").write_text(f"0 {'5e' * 16}\n")
    (tmp_path / "examples").mkdir()
    monkeypatch.setattr(queue_module, "PATIENCE_SECONDS", 1e9)
    url = f"lmdb://{tmp_path / 'store'}"
    feature_stores.fill(url, "users", {"u1": pack(ROWS[0]["context"])})
    app = run_app(
        arms=(f"control={folder}", f"candidate={folder}"),
        shadows=("candidate=control:1",),
        native=native,
        when_overloaded="prior",
        when_killed="prior",
        feedback_keys=str(tmp_path / "keys"),
        tracking="all",
        explore_share=1.0,
        example_log=str(tmp_path / "examples"),
        example_share=1.0,
        feature_store=url,
        feature_timeout_ms=1000.0,
    )
    service = app.app.predict_service
    shadows = service.shadows
    assert shadows is not None
    held = service.admission.start(1)  # so that copies wait
    request = {**request_of(ROWS[:2]), "user_id": "u1", "context": {}}
    for body in (request, {**request, "candidates": columns_of(request_of(ROWS[:2]))["candidates"]}):
        answer = app.post(body).json()
        assert (answer["explore"], b"token" in msgspec.json.encode(answer)) == (True, True)
    assert len(shadows._queue) == 2
    if way == "killed":
        killed(app)
    else:
        reasons = iter(["", "deadline"] * 2 if way == "after a look-up" else ["deadline"] * 2)
        monkeypatch.setattr(service.ladder, "reason", lambda *_, **__: next(reasons))
    for body in (request, {**request, "candidates": columns_of(request_of(ROWS[:2]))["candidates"]}):
        answer = app.post(body).json()
        assert list(answer) == ["id", "arm", "bundle", "quality", "results"]
        assert b"token" not in msgspec.json.encode(answer)
    service.admission.stop(held)
    predictor = app.app.served.arms[0].predictor
    assert (service.intake.held_bytes, service.admission.open_work) == (0, 0)
    assert (predictor.under_way, predictor._batcher._reserved_rows) == (0, 0)
    assert len(shadows._queue) == 2
    app.runner.run(app.app.close_feedback())
    lines = [line for file in (tmp_path / "examples").iterdir() for line in file.read_bytes().splitlines()]
    assert len(lines) == 2


@given(st.lists(st.tuples(st.floats(0.0, 2.0), st.floats(0.0, 0.01)), max_size=200), st.floats(1e-4, 0.1))
def test_the_ladder_takes_no_more_than_its_share(steps: list[tuple[float, float]], most: float) -> None:
    now, spent, answered, longest = 0.0, 0.0, 0, 0.0
    ladder = Ladder(most, lambda: now)
    for passes, cost in steps:
        now += passes
        if ladder.has_time():
            now += cost
            ladder.spend(cost)
            spent, longest = spent + cost + READING_SECONDS, max(longest, cost + READING_SECONDS)
            answered += 1
        assert spent <= most + PRIOR_SHARE * now + longest + 1e-9
    assert answered > 0 or not steps
    now += 2 * most / PRIOR_SHARE + 1.0
    assert ladder.has_time()


def test_a_stall_is_not_paid_for_ever() -> None:
    now = 0.0
    ladder = Ladder(0.005, lambda: now)
    ladder.spend(60.0)  # the process stood still
    assert not ladder.has_time()
    now += 2.0 * LONGEST_SECONDS / PRIOR_SHARE
    assert ladder.has_time()


@pytest.mark.parametrize("has_time", [False, True])
def test_an_estimate_is_doubted_by_what_it_decides_alone(
    run_app: RunApp, folder: Path, has_time: bool
) -> None:
    app = run_app(arms=(f"control={folder}",), when_overloaded="prior")
    predictor, ladder = slowed(app, 0.05), app.app.predict_service.ladder
    assert ladder is not None
    assert predictor._pace is not None
    ladder._credit = 1e9 if has_time else -1e9
    before = predictor._pace.expected(1)
    assert ladder.reason(predictor, 3, 0.2, has_room=False) == ""
    assert ladder.reason(predictor, 3, None, has_room=False) == ""
    assert ladder.reason(predictor, 3, -1e-3, has_room=True) == ""  # its client waits no longer
    assert predictor._pace.expected(1) == before
    assert ladder.reason(predictor, 3, 0.1, has_room=False) == ("deadline" if has_time else "")
    assert (predictor._pace.expected(1) < before) is has_time


def test_the_pace_follows_batches_and_forgets_stalls() -> None:
    pace = Pace()
    assert pace.expected(1000) == 0.0
    for _ in range(200):
        pace.count(100, 0.001)
        pace.count(10, 0.0001)
    assert pace.expected(50) == pytest.approx(0.0005, rel=1e-6)
    pace.count(100, 60.0)  # the process stood still
    assert pace.expected(50) < 0.01
    for _ in range(200):
        pace.count(100, 0.001)
    assert pace.expected(50) == pytest.approx(0.0005, rel=1e-3)
