"""The store of users and ads: it goes away, comes back empty or broken, or its files change under a reader.

Absence is not success: what was known stays known, and something is said.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from loadtest.faults.ground import Ground, is_alive, workers_of
from loadtest.faults.scenario import Figures, at_least, exactly, scenario
from loadtest.processes.redis_server import RedisServer, running_redis
from loadtest.processes.server import Server
from loadtest.traffic.answers import WrongAnswer, ask
from loadtest.traffic.known_ads import draw_ads, load_table, names_of, write_table
from loadtest.traffic.metrics import sum_of

ADS, USERS, BODIES = 500, 500, 64
CANDIDATES = 10
REFRESH = ("--catalogue-refresh-seconds", "1")
# A loaded machine may be late, and a late user is another fault.
PATIENT = ("--feature-timeout-ms", "1000")
REFRESHES = "bidlight_catalogue_refreshes_total"
SECONDS_TO_REFRESH = 15.0
ADS_KEY = "{bidlight:ads}"


def load_ads(ground: Ground, store: str) -> None:
    """Load ADS ads. Raises CannotLoad."""
    table = ground.folder / "ads.csv"
    write_table(draw_ads(ground.samples, ADS), names_of(ground.samples), table)
    load_table("ads", table, ground.bundle, store)


def load_users(ground: Ground, store: str) -> None:
    """Load USERS users, each with a sample row's context. Raises CannotLoad."""
    table = ground.folder / "users.csv"
    rows = ground.samples
    users = ({"id": f"u{number}", "features": rows[number % len(rows)]["context"]} for number in range(USERS))
    write_table(users, names_of(rows, "context"), table)
    load_table("users", table, ground.bundle, store)


def by_user(ground: Ground) -> list[bytes]:
    """Requests whose context is a stored user's."""
    requests = [json.loads(body) for body in ground.requests(CANDIDATES, BODIES)]
    return [
        json.dumps({**each, "user_id": f"u{number % USERS}", "context": {}}).encode()
        for number, each in enumerate(requests)
    ]


def differing(server: Server, bodies: Sequence[bytes], expected: Sequence[object]) -> int:
    """How many answers are not as expected; all of them where one is not 200."""
    try:
        return sum(found != wanted for found, wanted in zip(ask(server, bodies), expected, strict=True))
    except WrongAnswer:
        return len(bodies)


def wait_for_refreshes(server: Server, count: int = 2) -> None:
    """Wait until the ads were read again so often, whatever came of it, or SECONDS_TO_REFRESH are over."""
    before, deadline = sum_of(server, REFRESHES), time.monotonic() + SECONDS_TO_REFRESH
    while sum_of(server, REFRESHES) < before + count and time.monotonic() < deadline:
        time.sleep(0.1)


def refreshes_not_ok(server: Server) -> float:
    """How often the ads were read again and the old ones stayed."""
    return sum_of(server, REFRESHES) - sum_of(server, REFRESHES, 'outcome="ok"')


@contextmanager
def with_redis(ground: Ground) -> Iterator[tuple[RedisServer, Server]]:
    """A service that refreshes its ads from a Redis every second."""
    with running_redis(ground.client_core) as redis:
        load_ads(ground, redis.url)
        with ground.serving("--feature-store", redis.url, *REFRESH, *PATIENT) as server:
            yield redis, server


@scenario(
    exactly("answers changed", 0),
    at_least("refreshes not ok", 1),
    exactly("answers changed after the next load", 0),
)
def redis_restarts_empty(ground: Ground) -> Figures:
    """Redis ends, and begins again with nothing in it, as one without persistence does: the ads stay."""
    bodies = ground.requests(CANDIDATES, BODIES, ADS)
    with with_redis(ground) as (redis, server):
        expected = ask(server, bodies)
        redis.stop()
        redis.start()
        wait_for_refreshes(server)
        changed, not_ok = differing(server, bodies, expected), refreshes_not_ok(server)
        load_ads(ground, redis.url)
        wait_for_refreshes(server)
        after = differing(server, bodies, expected)
    return {
        "answers changed": changed,
        "refreshes not ok": not_ok,
        "answers changed after the next load": after,
    }


@scenario(exactly("answers changed", 0), at_least("refreshes not ok", 1))
def redis_holds_garbage(ground: Ground) -> Figures:
    """Another program writes garbage under the key of the ads: the ads stay."""
    bodies = ground.requests(CANDIDATES, BODIES, ADS)
    with with_redis(ground) as (redis, server):
        expected = ask(server, bodies)
        redis.call("DEL", ADS_KEY)
        for number in range(ADS):
            redis.call("HSET", ADS_KEY, f"ad-{number}", b"\xc1garbage")
        wait_for_refreshes(server)
        changed, not_ok = differing(server, bodies, expected), refreshes_not_ok(server)
    return {"answers changed": changed, "refreshes not ok": not_ok}


@scenario(
    exactly("lost", 0),
    exactly("other answers", 0),
    exactly("answers changed afterwards", 0),
    at_least("answered", 50),
)
def redis_goes_and_comes(ground: Ground) -> Figures:
    """Redis ends and begins again under load, three times: features may be missing, answers may not."""
    ours = ("--catalogue-refresh-seconds", "0", *PATIENT)
    bodies = by_user(ground)
    with running_redis(ground.client_core) as redis:
        load_users(ground, redis.url)
        with ground.serving("--feature-store", redis.url, *ours) as server:
            expected = ask(server, bodies)
            with ground.asking(server, bodies) as account:
                for _ in range(3):
                    time.sleep(0.3)
                    redis.stop()
                    time.sleep(0.5)
                    redis.start()
            load_users(ground, redis.url)
            time.sleep(1.0)  # a new connection is tried at most so often
            changed = differing(server, bodies, expected)
    return {
        "answered": account.answered,
        "lost": account.lost,
        "other answers": account.other_answers,
        "answers changed afterwards": changed,
    }


def _with_users_file(ground: Ground, name: str) -> tuple[str, Path]:
    """A new LMDB store of users, and its file."""
    folder = ground.folder / name
    folder.mkdir()
    store = f"lmdb://{quote(str(folder.resolve()))}"
    load_users(ground, store)
    return store, folder / "users.lmdb"


def _under_load(ground: Ground, store: str, change: list[bytes], file: Path, *, truncate: bool) -> Figures:
    """Write into the mapped file in place while users are read, a part at a time, as `cp` does."""
    bodies = by_user(ground)
    ours = ("--feature-store", store, *REFRESH, "--workers", "2")
    with ground.serving(*ours, is_on_one_core=False) as server:
        before = workers_of(server)
        with ground.asking(server, bodies) as account:
            time.sleep(0.3)
            with file.open("r+b") as target:
                if truncate:
                    target.truncate(0)
                    time.sleep(0.3)
                for part in change:
                    target.write(part)
                    target.flush()
                    time.sleep(0.1)
            time.sleep(max(2.5, ground.scaled(5.0)))
        dead, lives = before - workers_of(server), is_alive(server)
    return {
        "answered": account.answered,
        "lost": account.lost,
        "other answers": account.other_answers,
        "workers gone": len(dead),
        "supervisor lives": float(lives),
    }


OF_FILES = (
    exactly("workers gone", 0),
    exactly("lost", 0),
    exactly("other answers", 0),
    exactly("supervisor lives", 1),
    at_least("answered", 50),
)


@scenario(*OF_FILES)
def users_file_copied_over(ground: Ground) -> Figures:
    """`cp` of another users.lmdb over the one that is mapped: it is cut to nothing, then written in parts."""
    store, file = _with_users_file(ground, "served")
    _, other = _with_users_file(ground, "other")
    data = other.read_bytes()
    step = len(data) // 8 + 1
    parts = [data[at : at + step] for at in range(0, len(data), step)]
    return _under_load(ground, store, parts, file, truncate=True)


@scenario(*OF_FILES)
def users_file_truncated(ground: Ground) -> Figures:
    """users.lmdb is cut to nothing while it is mapped, and stays so."""
    store, file = _with_users_file(ground, "served")
    return _under_load(ground, store, [], file, truncate=True)


@scenario(*OF_FILES)
def users_file_overwritten(ground: Ground) -> Figures:
    """The pages of users.lmdb are overwritten with garbage while they are mapped."""
    store, file = _with_users_file(ground, "served")
    return _under_load(ground, store, [b"\xa5" * file.stat().st_size], file, truncate=False)


def status_of(server: Server, path: str) -> int:
    """The status of the answer to GET; 0 where there is none."""
    try:
        return server.get(path)[0]
    except OSError:
        return 0


@scenario(
    exactly("scrapes not 200", 0),
    exactly("lost", 0),
    exactly("other answers", 0),
    exactly("workers", 2),
    at_least("answered", 50),
)
def temporary_files_removed(ground: Ground) -> Figures:
    """A cleaner removes all temporary files of the service while it is asked and scraped."""
    home = ground.folder / "tmp"
    home.mkdir()
    bodies, scrapes = ground.requests(CANDIDATES), []
    variables = {"TMPDIR": str(home)}
    with ground.serving("--workers", "2", is_on_one_core=False, environment=variables) as server:
        with ground.asking(server, bodies) as account:
            for _ in range(ground.times(12)):
                for path in home.iterdir():
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
                scrapes.append(status_of(server, "/metrics"))
                for worker in sorted(workers_of(server))[:1]:  # its successor finds the files gone
                    os.kill(worker, signal.SIGTERM)
                time.sleep(1.0)
        scrapes.append(status_of(server, "/metrics"))
        alive = len(workers_of(server))
    return {
        "answered": account.answered,
        "lost": account.lost,
        "other answers": account.other_answers,
        "scrapes not 200": sum(status != 200 for status in scrapes),
        "workers": alive,
    }
