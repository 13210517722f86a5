"""Several workers on one port: no request is lost when a worker dies, hangs or is replaced."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import shutil
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from service.bundle.schema import Field, Kind, Role, Schema, Vocabulary
from tests.e2e.raw_http import body_of, kept_sending, message, read_answer, wait_until
from tests.forged_bundle import rewrite_json
from tests.running import RunningService, running_service, start_service
from tests.tiny_bundle import tiny_schema, write_tiny_bundle

CORES = sorted(os.sched_getaffinity(0))


def arguments_for(bundle: Path, *more: str) -> list[str]:
    return ["--arm", f"only={bundle}", "--workers", "2", *more]


def impatient(bundle: Path) -> list[str]:
    """Arguments of a service that soon replaces a worker that hangs."""
    return arguments_for(bundle, "--worker-timeout-seconds", "2")


@pytest.fixture
def service(bundles: dict[str, Path], tmp_path: Path) -> Iterator[RunningService]:
    """A service for one test, which may kill its processes."""
    with running_service(tmp_path, impatient(bundles["control"])) as running:
        yield running


@pytest.fixture(scope="module")
def shared(bundles: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """A service for tests that leave its processes alive."""
    with running_service(tmp_path_factory.mktemp("shared"), impatient(bundles["control"])) as running:
        yield running


def send_request(connections: list[socket.socket]) -> None:
    """Send a request over each connection."""
    for connection in connections:
        connection.sendall(message(body_of(2)))


def statuses_of(connections: list[socket.socket]) -> list[int]:
    statuses = []
    for connection in connections:
        with connection:
            statuses.append(read_answer(connection)[0])
    return statuses


def test_connections_waiting_for_a_killed_worker_are_answered(service: RunningService) -> None:
    victim = min(service.workers())
    os.kill(victim, signal.SIGSTOP)
    connections = [service.connect() for _ in range(16)]
    send_request(connections)
    os.kill(victim, signal.SIGKILL)
    assert statuses_of(connections) == [200] * 16
    assert service.stop() == 0
    assert "a worker ended with status -9; another one is started" in service.errors.read_text()


def test_a_worker_that_hangs_is_replaced_and_its_connections_are_answered(service: RunningService) -> None:
    before = service.workers()
    victim = min(before)
    os.kill(victim, signal.SIGSTOP)
    connections = [service.connect() for _ in range(16)]
    send_request(connections)
    assert statuses_of(connections) == [200] * 16
    assert victim not in service.workers()
    assert before & service.workers()  # the other one is still there
    assert service.stop() == 0
    assert f"worker {victim} is silent for too long" in service.errors.read_text()


def test_a_service_that_was_stopped_as_a_whole_goes_on(shared: RunningService) -> None:
    before = shared.workers()
    for process in (shared.process.pid, *before):
        os.kill(process, signal.SIGSTOP)
    threading.Event().wait(2.5)  # longer than the timeout of a worker
    for process in (shared.process.pid, *before):
        os.kill(process, signal.SIGCONT)
    for _ in range(10):
        assert shared.post(body_of(1)).status_code == 200
    threading.Event().wait(1.0)
    assert shared.workers() == before


def test_workers_end_with_their_supervisor(service: RunningService) -> None:
    workers = service.workers()
    service.process.kill()
    service.wait()
    wait_until(lambda: not any(Path(f"/proc/{worker}").exists() for worker in workers))
    assert not service.accepts()


def test_a_worker_that_stops_has_a_successor_before_it_ends(service: RunningService) -> None:
    victim = min(service.workers())
    held = [service.connect() for _ in range(16)]
    for connection in held:  # requests under way keep it from stopping at once
        connection.sendall(message(body_of(2))[:-5])
    assert service.post(body_of(1)).status_code == 200
    os.kill(victim, signal.SIGTERM)
    wait_until(lambda: len(service.workers()) == 3)
    for _ in range(10):
        assert service.post(body_of(1)).status_code == 200
    for connection in held:
        connection.sendall(message(body_of(2))[-5:])
    assert statuses_of(held) == [200] * 16
    wait_until(lambda: len(service.workers()) == 2)
    assert service.stop() == 0
    assert service.errors.read_text() == ""


def test_no_request_fails_while_bundles_are_replaced(bundles: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(bundles["control"], tmp_path / "bundle")
    with running_service(tmp_path, arguments_for(folder)) as service:
        with kept_sending(service, 4) as answers:
            for number in range(2):
                write_tiny_bundle(folder, name=f"newer-{number}", seed=number + 7)
                service.send_signal(signal.SIGHUP)
                wait_until(lambda: service.errors.read_text().count("reloaded only") == number + 1)  # noqa: B023
        # A stopping worker still answers what it has accepted; then only new ones are left.
        wait_until(lambda: service.post(body_of(1)).json()["bundle"].startswith("newer-1@"))
        assert service.stop() == 0
    assert {status for status, _ in answers} == {200}


def misstate_golden(folder: Path) -> None:
    """Put a wrong logit into a bundle's golden rows, with correct hashes."""

    def misstate(golden: Any) -> None:
        golden["variants"]["float32"]["logits"][0] += 1.0

    rewrite_json(folder, "golden.json", misstate)


def test_a_bundle_that_only_its_workers_refuse_ends_the_start_in_one_line(
    bundles: dict[str, Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(bundles["control"], tmp_path / "bundle")
    misstate_golden(folder)
    service = start_service(tmp_path, arguments_for(folder))
    assert service.wait() == 3
    assert service.output.read_text() == ""
    lines = service.errors.read_text().strip().splitlines()
    assert len(lines) == 1, lines
    assert "arm only" in lines[0]
    assert "row 0 to give logit" in lines[0]


def test_a_reload_that_the_first_worker_refuses_changes_nothing(
    bundles: dict[str, Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(bundles["control"], tmp_path / "bundle")
    with running_service(tmp_path, arguments_for(folder)) as service:
        workers, before = service.workers(), service.post(body_of(1))
        misstate_golden(folder)
        service.send_signal(signal.SIGHUP)
        wait_until(lambda: service.metrics().get('bidlight_reloads_total{outcome="refused"}') == 1)
        assert service.workers() == workers
        assert service.post(body_of(1)).content == before.content
        write_tiny_bundle(folder, name="newer", seed=7)
        service.send_signal(signal.SIGHUP)
        wait_until(lambda: service.metrics().get('bidlight_reloads_total{outcome="ok"}') == 1)
        wait_until(lambda: len(service.workers()) == 2)  # a stopping worker may still answer
        assert service.post(body_of(1)).headers["x-bundle"].startswith("newer@")
        assert service.stop() == 0
    assert service.errors.read_text().count("go on as they were: arm only: ") == 1


@contextmanager
def without_memory(service: RunningService) -> Iterator[None]:
    """Leave the workers that are forked meanwhile too little memory to start."""
    process = service.process.pid
    limits = resource.prlimit(process, resource.RLIMIT_AS)
    used = int(Path(f"/proc/{process}/statm").read_text().split()[0]) * resource.getpagesize()
    resource.prlimit(process, resource.RLIMIT_AS, (used + (1 << 20), limits[1]))
    yield
    resource.prlimit(process, resource.RLIMIT_AS, limits)


def test_a_successor_that_cannot_start_is_retried_while_others_serve(service: RunningService) -> None:
    before = service.workers()
    with without_memory(service):
        os.kill(min(before), signal.SIGKILL)
        wait_until(lambda: "before it served; another one is started" in service.errors.read_text())
        assert service.post(body_of(1)).status_code == 200
    wait_until(lambda: min(before) not in (now := service.workers()) and len(now) == 2)
    assert max(before) in service.workers()
    wait_until(lambda: service.post(body_of(1)).status_code == 200)
    assert service.stop() == 0


def test_a_reload_with_which_a_later_worker_cannot_start_returns_to_the_bundle_before(
    bundles: dict[str, Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(bundles["control"], tmp_path / "bundle")
    with running_service(tmp_path, ["--arm", f"only={folder}", "--workers", "4"]) as service:
        workers, old = service.workers(), service.post(body_of(1)).headers["x-bundle"]
        write_tiny_bundle(folder, name="newer", seed=7)
        service.send_signal(signal.SIGHUP)
        wait_until(lambda: bool(service.workers() - workers))
        service.send_signal(signal.SIGSTOP)  # the supervisor, while the first new worker starts
        threading.Event().wait(1.0)
        with without_memory(service):
            service.send_signal(signal.SIGCONT)
            wait_until(lambda: "go on as they were: a worker ended" in service.errors.read_text())
            assert {service.post(body_of(1)).status_code for _ in range(20)} == {200}

        def bundles_served() -> set[str]:
            return {service.post(body_of(1)).headers["x-bundle"] for _ in range(20)}

        wait_until(lambda: len(service.workers()) == 4 and bundles_served() == {old})
        assert len(workers & service.workers()) >= 2
        assert service.metrics()['bidlight_reloads_total{outcome="refused"}'] == 1
        assert service.stop() == 0


def test_a_supervisor_without_a_free_descriptor_goes_on_and_starts_the_successor_later(
    service: RunningService,
) -> None:
    before, process = service.workers(), service.process.pid
    limits = resource.prlimit(process, resource.RLIMIT_NOFILE)
    resource.prlimit(process, resource.RLIMIT_NOFILE, (3, limits[1]))
    service.send_signal(signal.SIGHUP)
    wait_until(lambda: "go on as they were" in service.errors.read_text())
    os.kill(min(before), signal.SIGKILL)
    wait_until(lambda: "no worker can be started now" in service.errors.read_text())
    resource.prlimit(process, resource.RLIMIT_NOFILE, limits)
    wait_until(lambda: min(before) not in (now := service.workers()) and len(now) == 2)
    assert service.post(body_of(1)).status_code == 200
    assert service.stop() == 0


def test_arms_of_unlike_schemas_are_told_once(bundles: dict[str, Path], tmp_path: Path) -> None:
    device = Field("device", Kind.CATEGORICAL, Role.CONTEXT, Vocabulary(("a", "b")))
    other = write_tiny_bundle(tmp_path / "other", schema=Schema((device, *tiny_schema().fields)))
    with running_service(
        tmp_path, [*arguments_for(bundles["control"]), "--arm", f"other={other}"]
    ) as service:
        assert service.stop() == 0
    assert service.errors.read_text().count("arm only and arm other are of unlike schemas") == 1


def test_the_supervisor_has_no_threads(shared: RunningService) -> None:
    assert len(list(Path(f"/proc/{shared.process.pid}/task").iterdir())) == 1


def test_workers_find_a_free_port_together(bundles: dict[str, Path], tmp_path: Path) -> None:
    service = start_service(tmp_path, arguments_for(bundles["control"], "--port", "0"))
    try:
        wait_until(lambda: service.output.stat().st_size > 0)
        found = re.search(r"serves on http://127\.0\.0\.1:(\d+) with 2 workers", service.output.read_text())
        assert found is not None
        service.port = int(found[1])
        assert service.post(body_of(1)).status_code == 200
    finally:
        assert service.stop() == 0


@pytest.mark.skipif(len(CORES) < 2, reason="needs two cores")
def test_each_worker_keeps_to_its_core(bundles: dict[str, Path], tmp_path: Path) -> None:
    with running_service(tmp_path, arguments_for(bundles["control"], "--pin-workers", "on")) as service:
        kept = [os.sched_getaffinity(worker) for worker in service.workers()]
        assert sorted(kept, key=min) == [{core} for core in CORES[:2]]
        victim = min(service.workers())
        core = os.sched_getaffinity(victim)
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: victim not in (now := service.workers()) and len(now) == 2)
        assert service.post(body_of(1)).status_code == 200
        with contextlib.suppress(ProcessLookupError):
            wait_until(lambda: core in [os.sched_getaffinity(worker) for worker in service.workers()])
        assert service.stop() == 0
