"""Real bundles, and the service on them in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from service.settings import Settings
from tests.redis_server import RedisServer, running_redis
from tests.running import RunningApp
from tests.tiny_bundle import write_tiny_bundle

# No deadline, so that a busy machine fails no test: none of them is about time.
hypothesis.settings.register_profile("no_deadline", deadline=None)
hypothesis.settings.load_profile("no_deadline")


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two tiny bundles of different weights."""
    folder = tmp_path_factory.mktemp("bundles")
    return {name: write_tiny_bundle(folder / name, name, seed) for seed, name in enumerate(("alpha", "beta"))}


@pytest.fixture
def run_app(bundles: dict[str, Path]) -> Iterator[Callable[..., RunningApp]]:
    """Start applications; without arms, `control` serves alpha."""
    running: list[RunningApp] = []

    def run(**settings: Any) -> RunningApp:
        settings.setdefault("arms", (f"control={bundles['alpha']}",))
        running.append(RunningApp(Settings(**settings)))
        return running[-1]

    yield run
    for app in running:
        app.close()


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A redis-server; tests that stop it start it again."""
    with running_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(params=["lmdb", "redis"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty feature store, of either kind."""
    if request.param == "lmdb":
        (tmp_path / "store").mkdir()
        return f"lmdb://{tmp_path / 'store'}"
    redis: RedisServer = request.getfixturevalue("redis")
    redis.call("FLUSHALL")
    return redis.url
