"""The rungs of an answer: what the prior gives, by both cores and in any form, and when it answers at all."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from time import perf_counter
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
from service.http.ladder import PRIOR_SHARE, READING_SECONDS, Ladder
from service.http.prediction import Prediction
from service.quality import DEADLINE, QUEUE
from service.scoring.pace import DOUBT, KEPT_BATCHES, Pace
from service.settings import Settings
from tests import feature_stores
from tests.running import JSON, RunningApp
from tests.service.http.test_killed_arms import steer
from tests.service.http.test_predict_endpoint import ROWS, columns_of, request_of
from tests.service.http.two_ways import outcome_of, start
from tests.tiny_bundle import tiny_prior, tiny_rows, write_tiny_bundle

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


def pctrs_of(answer: dict[str, Any]) -> list[float]:
    results = answer["results"]
    return results["pctr"] if isinstance(results, dict) else [each["pctr"] for each in results]


def killed(app: RunningApp) -> RunningApp:
    """With its only arm killed."""
    steer(app, "control")
    return app


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
    ladder.spend(1e9)
    refused = [answer.status_code for answer in app.runner.run(flood(6))]
    assert (set(refused), refused.count(200)) == ({200, 429}, qualities.count("full"))
    assert app.app.predict_service.admission.open_work == 0
    assert app.app.served.arms[0].predictor.under_way == 0


class Pretended:
    """A predictor whose queue and speed are given."""

    def __init__(self, has_room: bool, batch_seconds: float) -> None:
        self._has_room, self._seconds = has_room, batch_seconds

    def has_room(self, rows: int) -> bool:
        return self._has_room

    def takes_longer(self, rows: int, seconds: float) -> bool:
        return rows * self._seconds > seconds
