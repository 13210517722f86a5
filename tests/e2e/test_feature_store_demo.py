"""A small MovieLens: users with their histories in Redis, films in the catalogue, DIN behind /predict."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import polars as pl
import pytest

from service.features.store import pack
from tests.e2e.raw_http import wait_until
from tests.exporting import export
from tests.redis_server import RedisServer, running_redis
from tests.running import REPOSITORY, RunningService, running_service

USERS, FILMS, RATINGS = 30, 40, 900
NOW = {"hour_of_day": 20, "day_of_week": 6}


def write_movielens(folder: Path) -> Path:
    """Files in the format of MovieLens-100K, with random ratings."""
    draw = random.Random(0)
    folder.mkdir()
    ratings = (
        f"{draw.randrange(USERS)}\t{draw.randrange(FILMS)}\t{draw.randrange(1, 6)}\t{9 * 10**8 + 600 * n}\n"
        for n in range(RATINGS)
    )
    users = (f"{n}\t{draw.randrange(18, 60)}\t{draw.choice('MF')}\tother\t{n % 7}\n" for n in range(USERS))
    films = (f"{n}\tFilm {n}\t{1960 + n}\tDrama War\n" for n in range(FILMS))
    for ending, header, rows in (
        ("inter", "user_id:token\titem_id:token\trating:float\ttimestamp:float\n", ratings),
        ("user", "user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token\n", users),
        ("item", "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n", films),
    ):
        (folder / f"ml.{ending}").write_text(header + "".join(rows), encoding="utf-8")
    return folder


def python_m(*arguments: str | Path) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the log, the users, the films and a bundle of DIN."""
    folder = tmp_path_factory.mktemp("movielens")
    log = folder / "ml.parquet"
    export("convert", "movielens", "--data", write_movielens(folder / "files"), "--out", log)
    model = ["--model", "din", "--dim", "4", "--hidden-units", "16,8", "--epochs", "1", "--preset", "none"]
    data = ["--data", log, "--schema", log.with_suffix(".toml")]
    export("run", *data, *model, "--min-count", "1", "--batch-size", "128", "--out", folder / "bundle")
    return folder


@pytest.fixture(scope="module")
def redis(demo: Path) -> Iterator[RedisServer]:
    """A Redis into which the loader has written the users and the films."""
    with running_redis(demo) as server:
        for kind, name, key in (("users", "users", "user_id"), ("ads", "films", "item_id")):
            file = demo / f"ml.{name}.parquet"
            said = python_m("service.load_features", kind, file, "--key", key, "--store", server.url)
            assert said == f"loaded {USERS if kind == 'users' else FILMS} {kind} from {file}\n"
        yield server


@pytest.fixture(scope="module")
def service(demo: Path, redis: RedisServer) -> Iterator[RunningService]:
    # Nothing here is about the deadline, and the machine may be busy.
    arguments = ["--feature-store", redis.url, "--feature-timeout-ms", "1000"]
    with running_service(demo, ["--arm", f"din={demo / 'bundle'}", *arguments]) as running:
        yield running


def pctrs(service: RunningService, request: dict[str, Any]) -> list[float]:
    answer = service.post(request)
    assert answer.status_code == 200, answer.text
    return [result["pctr"] for result in answer.json()["results"]]


def whole_request(demo: Path, user_id: str, films: list[str]) -> dict[str, Any]:
    """The request that brings all features that the store has."""
    users = pl.read_parquet(demo / "ml.users.parquet").filter(pl.col("user_id") == user_id)
    known = {film["item_id"]: film for film in pl.read_parquet(demo / "ml.films.parquet").rows(named=True)}
    context = {**users.rows(named=True)[0], **NOW}
    return {"context": context, "candidates": [{"id": film, "features": known[film]} for film in films]}


def test_ids_alone_score_as_all_features_do(demo: Path, service: RunningService) -> None:
    films = [str(n) for n in range(FILMS)]
    for user_id in ("0", "7", "29"):
        request = {"user_id": user_id, "context": NOW, "candidates": [{"id": film} for film in films]}
        found = pctrs(service, request)
        assert found == pctrs(service, whole_request(demo, user_id, films))
        assert len(set(found)) > FILMS / 2
    metrics = service.metrics()
    assert metrics['bidlight_user_lookups_total{arm="din"}'] == 3
    assert metrics['bidlight_unknown_ads_total{arm="din"}'] == 0
    assert metrics['bidlight_catalogue_ads{arm="din"}'] == FILMS


def test_a_new_click_is_known_to_the_next_request(
    demo: Path, service: RunningService, redis: RedisServer
) -> None:
    request = {"user_id": "3", "context": NOW, "candidates": [{"id": "5"}, {"id": "6"}]}
    before = pctrs(service, request)
    whole = whole_request(demo, "3", ["5", "6"])
    whole["context"]["history"] = ["5", "5", "6"]
    user = {name: value for name, value in whole["context"].items() if name not in NOW}
    redis.call("SET", "bidlight:user:3", pack(user))
    after = pctrs(service, request)
    assert after == pctrs(service, whole)
    assert after != before


def test_it_answers_when_redis_stalls_goes_and_comes_back(demo: Path, redis: RedisServer) -> None:
    request = {"user_id": "8", "context": NOW, "candidates": [{"id": "5"}]}
    with running_service(demo, ["--arm", f"din={demo / 'bundle'}", "--feature-store", redis.url]) as service:
        # Of a user of whom the store says nothing, the request itself still knows the id.
        only_id = {"context": {**NOW, "user_id": "8"}, "candidates": request["candidates"]}
        nobody = pctrs(service, only_id)
        assert pctrs(service, {**request, "user_id": "nobody"}) != nobody

        def wait_for(expected: bool) -> None:
            deadline = time.monotonic() + 20.0
            while (pctrs(service, request) == nobody) != expected:
                assert time.monotonic() < deadline
                time.sleep(0.02)

        wait_for(False)
        redis.call("CLIENT", "PAUSE", "1500", "ALL")
        assert pctrs(service, request) == nobody
        wait_for(False)
        users = redis.call("GET", "bidlight:user:8")
        redis.stop()
        wait_for(True)
        service.send_signal(signal.SIGHUP)  # the films cannot be read: those that serve stay
        redis.start()
        redis.call("SET", "bidlight:user:8", users)
        wait_for(False)
        metrics = service.metrics()
        assert metrics['bidlight_unknown_ads_total{arm="din"}'] == 0
        assert service.stop() == 0


@pytest.mark.parametrize("through", ["parser", "asgi"])
def test_two_workers_share_an_lmdb_file(demo: Path, through: str) -> None:
    store = f"lmdb:{demo / 'store'}"
    for kind, name, key in (("users", "users", "user_id"), ("ads", "films", "item_id")):
        python_m("service.load_features", kind, demo / f"ml.{name}.parquet", "--key", key, "--store", store)
    options = ["--feature-store", store, "--workers", "2", "--predict-through", through]
    with running_service(demo, ["--arm", f"din={demo / 'bundle'}", *options]) as service:
        films = ["1", "2", "39"]
        request = {"user_id": "4", "context": NOW, "candidates": [{"id": film} for film in films]}
        expected = pctrs(service, whole_request(demo, "4", films))
        with httpx.Client(base_url=service.url, trust_env=False) as client:
            for _ in range(20):
                answer = client.post("/predict", json=request).json()
                assert [result["pctr"] for result in answer["results"]] == expected
        wait_until(lambda: service.metrics()['bidlight_user_lookups_total{arm="din"}'] == 20)
        assert service.stop() == 0
    assert service.errors.read_text() == ""
