"""Whatever happens to the files of a store: features are missing, bidding goes on, no worker ends."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from service.features.store import pack
from tests.e2e.raw_http import wait_until
from tests.feature_stores import fill
from tests.running import JSON, RunningService, running_service, start_service
from tests.tiny_bundle import tiny_rows

ROWS = tiny_rows(40, seed=5)
USERS = {f"u{n}": pack(ROWS[n % len(ROWS)]["context"]) for n in range(6000)}
ADS = {f"ad-{n}": pack(row["candidate"]) for n, row in enumerate(ROWS)}
NEW_USER = pack({"site": "s5", "hour": 23})
USERS_FILE, ADS_FILE = "users.lmdb", "ads.lmdb"
UNAVAILABLE = 'bidlight_user_is_missing_total{arm="only",reason="unavailable"}'


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A folder with users and ads."""
    folder = tmp_path / "store"
    fill(f"lmdb://{folder}", "users", USERS)
    fill(f"lmdb://{folder}", "ads", ADS)
    return folder


@contextmanager
def serving(bundles: dict[str, Path], store: Path, *more: str) -> Iterator[RunningService]:
    """A service with the store, which it reads again every second."""
    arguments = ["--arm", f"only={bundles['control']}", "--feature-store", f"lmdb://{store}", *more]
    with running_service(store.parent, [*arguments, "--catalogue-refresh-seconds", "1"]) as service:
        yield service


@contextmanager
def load_on(service: RunningService) -> Iterator[list[int]]:
    """Requests for one user after the other, over connections that stay open; their statuses."""
    statuses: list[int] = []
    is_over = threading.Event()

    def send(first: int) -> None:
        with service.client(headers=JSON) as client:
            number = first
            while not is_over.is_set():
                request = {"user_id": f"u{number % len(USERS)}", "candidates": [{"id": f"ad-{number % 40}"}]}
                try:
                    statuses.append(client.post("/predict", json=request).status_code)
                except httpx.TransportError:
                    statuses.append(0)
                number += 17

    threads = [threading.Thread(target=send, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    try:
        yield statuses
    finally:
        is_over.set()
        for thread in threads:
            thread.join()


def copy_over(path: Path) -> None:
    """What an operator does with another file of users."""
    other = path.parent.parent / "other"
    fill(f"lmdb://{other}", "users", dict(list(USERS.items())[::-1]))
    subprocess.run(["cp", str(other / USERS_FILE), str(path)], check=True)


def copy_half(path: Path) -> None:
    """What is there while `cp` runs, or after it ended before its time."""
    whole = path.read_bytes()
    with path.open("r+b") as file:
        file.truncate(0)
        file.write(whole[: len(whole) // 2])


def overwrite(path: Path) -> None:
    """Other bytes of the same length, beyond the first pages."""
    with path.open("r+b") as file:
        file.seek(8192)
        file.write(os.urandom(path.stat().st_size - 8192))


BREAKS: dict[str, Callable[[Path], object]] = {
    "cp over it": copy_over,
    "half a copy": copy_half,
    "cut short": lambda path: os.truncate(path, path.stat().st_size // 3),
    "empty": lambda path: os.truncate(path, 0),
    "overwritten": overwrite,
}


def pctr_of(service: RunningService, user_id: str) -> float:
    answer = service.post({"user_id": user_id, "candidates": [{"id": "ad-1"}]})
    assert answer.status_code == 200, answer.text
    pctr: float = answer.json()["results"][0]["pctr"]
    return pctr


def serves_new_user(service: RunningService, user_id: str, unknown: float) -> bool:
    """Whether all workers know a user that is only in the file that was written last."""
    return all(pctr_of(service, user_id) != unknown for _ in range(20))


@pytest.mark.parametrize("workers", [1, 2])
def test_files_that_are_written_into_under_load_cost_features_and_no_worker(
    bundles: dict[str, Path], store: Path, workers: int
) -> None:
    said = f"{store / USERS_FILE} are missing: somebody writes into the file"
    with serving(bundles, store, "--workers", str(workers)) as service:
        before, unknown = service.workers(), pctr_of(service, "nobody")
        with load_on(service) as statuses:
            for broken, break_it in BREAKS.items():
                missing = service.metrics().get(UNAVAILABLE, 0.0)
                lines = service.errors.read_text().count(said)
                for name in (USERS_FILE, ADS_FILE):
                    break_it(store / name)
                wait_until(lambda: service.metrics().get(UNAVAILABLE, 0.0) > missing)  # noqa: B023
                wait_until(lambda: service.errors.read_text().count(said) > lines)  # noqa: B023
                fill(f"lmdb://{store}", "users", {**USERS, f"after {broken}": NEW_USER})
                fill(f"lmdb://{store}", "ads", ADS)
                wait_until(lambda: serves_new_user(service, f"after {broken}", unknown))  # noqa: B023
        assert service.workers() == before
        assert set(statuses) == {200}
        assert service.stop() == 0
    assert "ended with status" not in service.errors.read_text()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_service_that_starts_with_a_broken_file_serves_without_it_until_it_is_replaced(
    bundles: dict[str, Path], store: Path, workers: int
) -> None:
    for name in (USERS_FILE, ADS_FILE):
        copy_half(store / name)
    with serving(bundles, store, "--workers", str(workers)) as service:
        unknown = pctr_of(service, "nobody")
        assert pctr_of(service, "u1") == unknown
        wait_until(lambda: service.metrics()[UNAVAILABLE] == 2)  # another worker tells a moment later
        fill(f"lmdb://{store}", "users", {"new": NEW_USER})
        wait_until(lambda: serves_new_user(service, "new", unknown))
        assert service.stop() == 0
    said = service.errors.read_text()
    assert f"the users in {store / USERS_FILE} cannot be read: it is incomplete" in said
    assert f"the ads in {store / ADS_FILE} cannot be read: it is incomplete" in said


def test_a_worker_that_dies_while_the_store_is_gone_has_a_successor_without_it(
    bundles: dict[str, Path], store: Path
) -> None:
    with serving(bundles, store, "--workers", "2") as service:
        before, unknown = service.workers(), pctr_of(service, "nobody")
        away = store.rename(store.parent / "away")
        for worker in before:
            os.kill(worker, signal.SIGKILL)
        wait_until(lambda: not before & (now := service.workers()) and len(now) == 2)
        for _ in range(20):
            pctr_of(service, "u1")
        assert f"the users in {store / USERS_FILE} cannot be read" in service.errors.read_text()
        fill(f"lmdb://{away}", "users", {"new": NEW_USER})
        away.rename(store)
        wait_until(lambda: serves_new_user(service, "new", unknown))
        assert service.stop() == 0


def test_a_folder_that_is_not_there_at_the_start_is_refused(bundles: dict[str, Path], tmp_path: Path) -> None:
    for workers in ("1", "2"):
        arguments = ["--arm", f"only={bundles['control']}", "--workers", workers]
        service = start_service(tmp_path, [*arguments, "--feature-store", f"lmdb://{tmp_path}/nowhere"])
        assert service.wait() == 3
        assert "'feature_store' must be a folder that is there" in service.errors.read_text()
