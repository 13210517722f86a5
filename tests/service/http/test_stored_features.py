"""POST /predict with a feature store: what it fills in, which value wins, what is counted, and failures."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from service.arms import loading
from service.bundle.schema import Bins, Field, Kind, Role, Schema, Vocabulary
from service.errors import BadConfiguration
from service.features.known_share import LOOKUPS_JUDGED
from service.features.lmdb import LmdbStore
from service.features.store import pack
from service.http.app import create_app
from service.settings import Settings
from tests import feature_stores
from tests.redis_server import RedisServer
from tests.running import RunningApp
from tests.service.http.test_predict_endpoint import pctrs_of
from tests.tiny_bundle import tiny_rows, tiny_schema, write_tiny_bundle

RunApp = Callable[..., RunningApp]
ROWS = tiny_rows(40, seed=11)
USERS = {f"u{n}": row["context"] for n, row in enumerate(ROWS)}
ADS = {f"ad-{n}": row["candidate"] for n, row in enumerate(ROWS)}
BY_ID = [{"id": name} for name in ADS]


def fill(url: str, kind: str, rows: dict[str, dict[str, Any]]) -> None:
    feature_stores.fill(url, kind, {name: pack(features) for name, features in rows.items()})


@pytest.fixture
def url(url: str) -> str:
    """A store with the users and ads."""
    fill(url, "users", USERS)
    fill(url, "ads", ADS)
    return url


def run_with(run_app: RunApp, url: str, **settings: Any) -> RunningApp:
    # A loaded machine may be slow, and no test here is about the deadline.
    return run_app(feature_store=url, **{"feature_timeout_ms": 1000.0, **settings})


def pctrs(app: RunningApp, request: dict[str, Any]) -> list[float]:
    answer = app.post(request)
    assert answer.status_code == 200, answer.text
    return pctrs_of(answer.json())


def count(app: RunningApp, metric: str, **labels: str) -> float:
    inside = ",".join(f'{name}="{value}"' for name, value in {"arm": "control", **labels}.items())
    return app.metrics().get(f"bidlight_{metric}{{{inside}}}", 0.0)


def wait_for(app: RunningApp, condition: Callable[[], bool]) -> None:
    """Let the application run until the condition holds."""
    deadline = time.monotonic() + 20.0
    while not condition():
        assert time.monotonic() < deadline
        app.runner.run(asyncio.sleep(0.05))


def test_a_user_and_ads_of_the_store_score_like_a_request_with_all_features(
    run_app: RunApp, url: str
) -> None:
    app, plain = run_with(run_app, url), run_app()
    for user_id, context in list(USERS.items())[:5]:
        expected = pctrs(plain, {"context": context, "candidates": [{"features": ad} for ad in ADS.values()]})
        assert pctrs(app, {"user_id": user_id, "candidates": BY_ID}) == expected
        assert pctrs(app, {"user_id": user_id, "candidates": {"id": list(ADS)}}) == expected
        for one in (0, 3):
            assert pctrs(app, {"user_id": user_id, "candidates": [BY_ID[one]]}) == [expected[one]]
    assert count(app, "user_lookups_total") == 20
    assert count(app, "unknown_ads_total") == 0
    assert count(app, "catalogue_ads") == len(ADS)
    assert app.metrics()["bidlight_store_read_seconds_count"] == 20


def test_values_of_a_request_win_also_null(run_app: RunApp, url: str) -> None:
    app, plain = run_with(run_app, url), run_app()
    for given in ({"site": "s2"}, {"site": None}, {"hour": None, "history": ["a9"]}):
        merged = {
            "context": {**USERS["u0"], **given},
            "candidates": [{"features": {**ADS["ad-0"], "ad": "a9"}}],
        }
        request = {
            "user_id": "u0",
            "context": given,
            "candidates": [{"id": "ad-0", "features": {"ad": "a9"}}],
        }
        assert pctrs(app, request) == pctrs(plain, merged)


@pytest.fixture(scope="module")
def personal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with a field `user_id`, among whose values are those of some requests."""
    users = Vocabulary(("u0", "u1", "u2", "u3", "nobody", "whoever"))
    fields = (Field("user_id", Kind.CATEGORICAL, Role.CONTEXT, users), *tiny_schema().fields)
    return write_tiny_bundle(tmp_path_factory.mktemp("personal"), schema=Schema(fields))


@pytest.mark.parametrize("as_rows", [True, False])
@pytest.mark.parametrize("stored", [True, False])
def test_a_field_user_id_is_the_contexts_then_the_stores_then_the_requests_own(
    run_app: RunApp, tmp_path: Path, personal: Path, stored: bool, as_rows: bool
) -> None:
    url = f"lmdb://{tmp_path}"
    fill(url, "users", {"u0": {"site": "s1"}, "u1": {"user_id": "u2"}, "u3": {"user_id": 1.5}})
    arms = (f"a={personal}",)
    app = run_with(run_app, url, arms=arms) if stored else run_app(arms=arms)
    ads = list(ADS.values())[:2]
    columns = {"ad": [ad["ad"] for ad in ads], "campaign": [ad.get("campaign") for ad in ads]}
    candidates: Any = [{"features": ad} for ad in ads] if as_rows else {"features": columns}
    plain = run_app(arms=arms)

    def as_context(**context: Any) -> list[float]:
        return pctrs(plain, {"context": context, "candidates": candidates})

    def asked(own: str | None, **context: Any) -> list[float]:
        return pctrs(app, {"user_id": own, "context": context, "candidates": candidates})

    site = {"site": "s1"} if stored else {}
    assert asked("u0") == as_context(user_id="u0", **site)
    assert asked("u0") != as_context(**site)
    assert asked("nobody") == as_context(user_id="nobody")
    assert asked("u1") == as_context(user_id="u2" if stored else "u1")
    assert asked("u3") == as_context(user_id=None if stored else "u3")
    assert asked("u0", user_id="whoever") == as_context(user_id="whoever", **site)
    assert asked("u0", user_id=None) == as_context(**site)
    assert asked(None, site="s2") == as_context(site="s2")


def test_only_a_category_of_the_context_is_filled(run_app: RunApp, tmp_path: Path) -> None:
    fields = tiny_schema().fields
    schemas = {
        "number": Schema((Field("user_id", Kind.NUMERIC, Role.CONTEXT, Bins((1.0,))), *fields)),
        "ad": Schema((*fields, Field("user_id", Kind.CATEGORICAL, Role.CANDIDATE, Vocabulary(("u1",))))),
    }
    for name, schema in schemas.items():
        bundle = write_tiny_bundle(tmp_path / name, schema=schema)
        app = run_app(arms=(f"a={bundle}",))
        candidates = [{"features": ADS["ad-1"]}]
        expected = pctrs(app, {"candidates": candidates})
        assert pctrs(app, {"user_id": "u1", "candidates": candidates}) == expected


def test_unknown_users_and_ads_are_missing_and_counted(run_app: RunApp, url: str) -> None:
    app, plain = run_with(run_app, url), run_app()
    request = {"user_id": "nobody", "candidates": [{"id": "no ad"}, {"id": "ad-1"}, {}]}
    expected = pctrs(plain, {"candidates": [{}, {"features": ADS["ad-1"]}, {}]})
    assert pctrs(app, request) == expected
    assert count(app, "unknown_ads_total") == 1
    assert count(app, "user_is_missing_total", reason="unknown_user") == 1


def test_a_complete_request_or_one_without_a_user_reads_nothing_from_the_store(
    run_app: RunApp, url: str
) -> None:
    app, plain = run_with(run_app, url), run_app()
    whole = next(row["context"] for row in ROWS if len(row["context"]) == 3)
    request: dict[str, Any] = {"user_id": "u7", "context": whole, "candidates": [{"features": ADS["ad-1"]}]}
    assert pctrs(app, request) == pctrs(plain, request)
    del request["user_id"], request["context"]
    assert pctrs(app, request) == pctrs(plain, request)
    assert count(app, "user_lookups_total") == 0


def test_requests_of_one_iteration_share_a_read_and_a_batch(run_app: RunApp, url: str) -> None:
    app = run_with(run_app, url)
    requests = [{"user_id": name, "candidates": BY_ID[:2]} for name in USERS]
    alone = [pctrs(app, request) for request in requests]
    reads = app.metrics()["bidlight_store_read_seconds_count"]

    async def send_all() -> list[Any]:
        return await asyncio.gather(*[app.client.post("/predict", json=request) for request in requests])

    answers = app.runner.run(send_all())
    assert [[one["pctr"] for one in answer.json()["results"]] for answer in answers] == alone
    assert app.metrics()["bidlight_store_read_seconds_count"] - reads < len(requests) / 4


def test_bad_values_of_the_store_are_missing_and_those_of_a_client_are_refused(
    run_app: RunApp, url: str
) -> None:
    fill(url, "users", {"odd": {"site": 1.5, "hour": "noon", "history": ["a1"], "more": {"x": 1}}})
    app, plain = run_with(run_app, url), run_app()
    candidates = [{"features": ADS["ad-1"]}]
    expected = pctrs(plain, {"context": {"history": ["a1"]}, "candidates": candidates})
    assert pctrs(app, {"user_id": "odd", "candidates": candidates}) == expected
    assert count(app, "user_is_missing_total", reason="invalid") == 1
    refused = app.post({"user_id": "odd", "context": {"site": 1.5}, "candidates": candidates})
    assert (refused.status_code, refused.json()["error"]["path"]) == (422, "$.context.site")
    refused = app.post({"user_id": "u1", "candidates": [{"id": "ad-1"}, {"features": {"ad": True}}]})
    assert (refused.status_code, refused.json()["error"]["path"]) == (422, "$.candidates[1].features.ad")
    assert count(app, "unknown_names_total", name="more") == 0  # the store serves other schemas too


def test_a_store_that_is_down_costs_features_and_no_answer(run_app: RunApp, redis: RedisServer) -> None:
    redis.stop()
    app, plain = run_with(run_app, redis.url, catalogue_refresh_seconds=1), run_app()
    request = {"user_id": "u1", "candidates": [{"id": "ad-1"}]}
    assert pctrs(app, request) == pctrs(plain, {"candidates": [{}]})
    assert count(app, "user_is_missing_total", reason="unavailable") == 1
    redis.start()
    fill(redis.url, "users", USERS)
    fill(redis.url, "ads", ADS)
    expected = pctrs(plain, {"context": USERS["u1"], "candidates": [{"features": ADS["ad-1"]}]})
    deadline = time.monotonic() + 20.0
    while pctrs(app, request) != expected:
        assert time.monotonic() < deadline
        app.runner.run(asyncio.sleep(0.05))


def test_late_features_are_missing_and_counted(run_app: RunApp, redis: RedisServer) -> None:
    redis.call("FLUSHALL")
    app, plain = run_app(feature_store=redis.url, feature_timeout_ms=1.0), run_app()
    redis.call("CLIENT", "PAUSE", "1000", "ALL")
    request = {"user_id": "u1", "candidates": [{"features": ADS["ad-1"]}]}
    assert pctrs(app, request) == pctrs(plain, {"candidates": request["candidates"]})
    assert count(app, "user_is_missing_total", reason="late") == 1


def test_ads_are_refreshed_and_a_refresh_that_fails_leaves_the_old_ones(
    run_app: RunApp, tmp_path: Path, bundles: dict[str, Path]
) -> None:
    url = f"lmdb://{tmp_path}"
    app, plain = run_with(run_app, url, catalogue_refresh_seconds=1), run_app()
    request = {"candidates": [{"id": "ad-1"}]}
    of_one, of_two = (pctrs(plain, {"candidates": [{"features": ADS[name]}]}) for name in ("ad-1", "ad-2"))
    assert pctrs(app, request) == pctrs(plain, {"candidates": [{}]})
    assert count(app, "unknown_ads_total") == 1  # also where the catalogue has none at all

    fill(url, "ads", ADS)
    wait_for(app, lambda: pctrs(app, request) == of_one)
    (tmp_path / "ads.lmdb").unlink()
    (tmp_path / "ads.lmdb").write_bytes(b"not whole")
    failed = 'bidlight_catalogue_refreshes_total{outcome="failed"}'
    wait_for(app, lambda: app.metrics().get(failed, 0.0) > 0)
    assert pctrs(app, request) == of_one
    fill(url, "ads", {"ad-1": ADS["ad-2"]})
    app.runner.run(app.app.served.reload())
    assert pctrs(app, request) == of_two


def test_a_bundle_that_comes_back_has_the_ads_of_the_store_as_they_are_now(
    run_app: RunApp, url: str, tmp_path: Path
) -> None:
    folder = write_tiny_bundle(tmp_path / "bundle", name="first", seed=3)
    app = run_with(run_app, url, arms=(f"control={folder}",), try_reloads="off")
    first = pctrs(app, {"candidates": BY_ID})
    known = app.app.served.arms[0].predictor.known_ads
    schema = Schema(
        (*tiny_schema().fields, Field("more", Kind.CATEGORICAL, Role.CANDIDATE, Vocabulary(("a",))))
    )
    write_tiny_bundle(folder, name="second", seed=4, schema=schema)
    app.runner.run(app.app.served.reload())
    app.app.served.publish()
    assert known.catalogue is None  # what is kept takes no memory for ads
    assert pctrs(app, {"candidates": BY_ID}) != first
    fill(url, "ads", {**ADS, "ad-0": ADS["ad-1"]})
    app.app.served.request("rollback")
    wait_for(app, lambda: app.app.served.bundles["control"].startswith("first@"))
    assert pctrs(app, {"candidates": BY_ID}) == [first[1], *first[1:]]


def odd(number: int, good: bytes) -> bytes:
    """What other programs leave under an ad's id."""
    return [b"", b"\xc1", b"plain text", good[:-2], pack({"ad": [1.5], "campaign": {}}), b"\x93\x01\x02\x03"][
        number % 6
    ]


LOSSES: dict[str, Callable[[RedisServer], object]] = {
    "restarted empty": lambda redis: (redis.stop(), redis.start()),
    "flushed": lambda redis: redis.call("FLUSHALL"),
    "ads are gone": lambda redis: redis.call("DEL", "{bidlight:ads}"),
    "a load is under way": lambda redis: fill(redis.url, "ads", dict(list(ADS.items())[:19])),
    "values are garbage": lambda redis: [
        redis.call("HSET", "{bidlight:ads}", name, odd(number, pack(ad)))
        for number, (name, ad) in enumerate(list(ADS.items())[:21])
    ],
    "fields have other names": lambda redis: fill(
        redis.url,
        "ads",
        {name: {f"{field} ": value for field, value in ad.items()} for name, ad in ADS.items()},
    ),
    "values are spelled otherwise": lambda redis: fill(
        redis.url, "ads", {name: {"ad": f"{ad['ad']}.0"} for name, ad in ADS.items()}
    ),
}


@pytest.mark.parametrize("loss", LOSSES)
def test_a_refresh_that_would_lose_most_ads_is_refused_and_told(
    run_app: RunApp, redis: RedisServer, caplog: pytest.LogCaptureFixture, loss: str
) -> None:
    redis.call("FLUSHALL")
    fill(redis.url, "ads", ADS)
    app = run_with(run_app, redis.url, catalogue_refresh_seconds=1)
    request = {"candidates": BY_ID}
    expected = pctrs(app, request)
    LOSSES[loss](redis)
    refused, ok = (
        f'bidlight_catalogue_refreshes_total{{outcome="{outcome}"}}' for outcome in ("refused", "ok")
    )
    wait_for(app, lambda: app.metrics().get(refused, 0.0) > 0)
    counted, read_at = app.metrics()[ok], count(app, "catalogue_read_timestamp_seconds")
    assert 0 < time.time() - read_at < 60
    wait_for(app, lambda: app.metrics()[refused] > 2)
    assert app.metrics()[ok] == counted
    assert count(app, "catalogue_read_timestamp_seconds") == read_at
    assert pctrs(app, request) == expected
    assert count(app, "catalogue_ads") == len(ADS)
    assert "the ads are not refreshed" in caplog.text
    assert "fill the store again, or have what it holds accepted by SIGHUP or a restart" in caplog.text

    fill(redis.url, "ads", dict(list(ADS.items())[:30]))  # a quarter less
    wait_for(app, lambda: count(app, "catalogue_ads") == 30)


def test_a_reload_accepts_what_a_refresh_refuses(
    run_app: RunApp, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    app = run_with(run_app, url)
    fill(url, "ads", {"ad-1": ADS["ad-1"]})
    app.runner.run(app.app.served.reload())
    assert count(app, "catalogue_ads") == 1
    assert "a reload takes what the store holds: 1 ads were found where there were 40" in caplog.text


def test_any_loss_is_accepted_where_the_setting_says_so(run_app: RunApp, url: str) -> None:
    app = run_with(run_app, url, catalogue_refresh_seconds=1, max_refresh_loss=1.0)
    fill(url, "ads", {"ad-1": ADS["ad-1"]})
    wait_for(app, lambda: count(app, "catalogue_ads") == 1)


def test_ads_that_no_store_has_are_counted_as_unknown(
    run_app: RunApp, redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    redis.call("FLUSHALL")
    app = run_with(run_app, redis.url)
    assert "the feature store has no ads" in caplog.text
    for candidates in (BY_ID, {"id": list(ADS)}, [{"id": "x", "features": {"ad": "a1"}}], [{"features": {}}]):
        pctrs(app, {"candidates": candidates})
    whole = {"ad": "a1", "campaign": None}
    pctrs(app, {"candidates": [{"id": "x", "features": whole}]})
    assert count(app, "unknown_ads_total") == 2 * len(ADS) + 1
    assert count(app, "catalogue_ads") == 0


def test_a_file_with_far_fewer_users_is_refused_until_a_reload(
    run_app: RunApp, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    url = f"lmdb://{tmp_path}"
    fill(url, "users", USERS)
    app = run_with(run_app, url, catalogue_refresh_seconds=1)
    request = {"user_id": "u1", "candidates": [{"features": ADS["ad-1"]}]}
    expected = pctrs(app, request)
    fill(url, "users", {"u2": USERS["u2"]})
    wait_for(app, lambda: app.metrics().get('bidlight_user_refreshes_total{outcome="refused"}', 0.0) > 0)
    assert pctrs(app, request) == expected
    assert "the users are not refreshed: 1 users were found where there were 40" in caplog.text
    app.runner.run(app.app.served.reload())
    assert pctrs(app, request) != expected
    assert app.metrics()['bidlight_user_refreshes_total{outcome="ok"}'] == 1


def test_users_that_are_gone_at_once_have_a_reason_of_their_own(
    run_app: RunApp, redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    redis.call("FLUSHALL")
    fill(redis.url, "users", USERS)
    app = run_with(run_app, redis.url, max_queued_rows=10_000)

    def look_up() -> None:
        async def send() -> None:
            requests = [{"user_id": f"u{n % 40}", "candidates": [{}]} for n in range(LOOKUPS_JUDGED)]
            await asyncio.gather(*[app.client.post("/predict", json=request) for request in requests])

        app.runner.run(send())

    look_up()
    redis.call("FLUSHALL")
    look_up()
    assert "knows 0 of the last 500 users that were looked up, where 100% were usual" in caplog.text
    look_up()
    assert count(app, "user_is_missing_total", reason="emptied") >= LOOKUPS_JUDGED
    fill(redis.url, "users", USERS)
    look_up()
    emptied = count(app, "user_is_missing_total", reason="emptied")
    pctrs(app, {"user_id": "nobody", "candidates": [{}]})
    assert count(app, "user_is_missing_total", reason="emptied") == emptied


def test_arms_of_one_schema_share_a_catalogue(run_app: RunApp, url: str, bundles: dict[str, Path]) -> None:
    arms = (f"a={bundles['alpha']}", f"b={bundles['beta']}:0")
    app, plain = run_with(run_app, url, arms=arms), run_app(arms=arms)
    one, two = (arm.predictor.known_ads.catalogue for arm in app.app.arms)
    assert one is two  # the same schema
    for name in ("a", "b"):
        found, expected = (
            each.post({"candidates": candidates}, {"x-arm": name}).json()["results"][0]["pctr"]
            for each, candidates in ((app, BY_ID[:1]), (plain, [{"features": ADS["ad-0"]}]))
        )
        assert found == expected


def test_golden_rows_read_nothing_from_the_store(
    run_app: RunApp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def record(owner: object, name: str) -> None:
        function = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *given: (calls.append(name), function(*given))[1])

    for name in ("open", "refresh", "read_users", "ads"):
        record(LmdbStore, name)
    record(loading, "replay_golden")
    app = run_with(run_app, f"lmdb://{tmp_path}")
    assert calls == ["replay_golden", "open", "refresh", "ads"]
    calls.clear()
    app.runner.run(app.app.served.reload())
    assert calls == ["replay_golden", "refresh", "ads"]


def test_the_reload_signal_reads_new_users(run_app: RunApp, tmp_path: Path) -> None:
    url = f"lmdb://{tmp_path}"
    fill(url, "users", {"u": {}})
    app = run_with(run_app, url)
    expected = pctrs(app, {"context": USERS["u3"], "candidates": [{}]})
    assert pctrs(app, {"user_id": "u", "candidates": [{}]}) != expected
    fill(url, "users", {"u": USERS["u3"]})
    signal.raise_signal(signal.SIGHUP)
    deadline = time.monotonic() + 20.0
    while pctrs(app, {"user_id": "u", "candidates": [{}]}) != expected:
        assert time.monotonic() < deadline
        app.runner.run(asyncio.sleep(0.05))


def test_a_bad_address_is_refused_at_the_start(bundles: dict[str, Path]) -> None:
    settings = Settings(arms=(f"control={bundles['alpha']}",), feature_store="mysql://here")
    with pytest.raises(BadConfiguration, match="feature_store"):
        create_app(settings)
