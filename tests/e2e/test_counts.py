"""What workers count together: every scrape is whole, and nothing falls, whatever happens to the workers."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from functools import partial
from itertools import pairwise
from pathlib import Path

import httpx
from prometheus_client.parser import text_string_to_metric_families

from service.bundle.schema import Field, Kind, Role, Schema, Vocabulary
from service.metrics.names import MAX_UNKNOWN_NAMES
from service.process.pool import PROCESSES_A_SLOT
from tests.e2e.raw_http import body_of, message, read_answer, wait_until
from tests.running import RunningService, running_service
from tests.tiny_bundle import tiny_schema, write_tiny_bundle

OK = 'bidlight_requests_total{arm="only",outcome="ok"}'
Counts = dict[str, float]


def arguments_for(bundle: Path) -> list[str]:
    return ["--arm", f"only={bundle}", "--workers", "2"]


def reloads_of(service: RunningService) -> int:
    """How many reloads it has logged."""
    return service.errors.read_text().count("reloaded only")


def write_bundle_with(field: str, folder: Path, number: int) -> None:
    """A bundle with one context field more than the tiny one has."""
    more = Field(field, Kind.CATEGORICAL, Role.CONTEXT, Vocabulary(("a",)))
    write_tiny_bundle(folder, f"bundle-{number}", number, Schema((more, *tiny_schema().fields)))


def scrape(service: RunningService) -> Counts:
    """Every counter, and every bucket, number and sum of a histogram."""
    with service.client() as client:
        answer = client.get("/metrics")
    assert answer.status_code == 200, answer.text
    return {
        f"{sample.name} {sorted(sample.labels.items())}": sample.value
        for family in text_string_to_metric_families(answer.text)
        if family.type in ("counter", "histogram")
        for sample in family.samples
    }


def repeat_until(is_over: threading.Event, once: Callable[[], object]) -> None:
    """Call `once` again and again; a worker that is killed may break a call."""
    while not is_over.is_set():
        with contextlib.suppress(httpx.TransportError):
            once()


def test_every_scrape_is_whole_while_workers_are_replaced_and_killed(
    bundles: dict[str, Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(bundles["control"], tmp_path / "bundle")
    is_over = threading.Event()
    scrapes: tuple[list[Counts], ...] = ([], [], [])
    statuses: list[int] = []
    with running_service(tmp_path, arguments_for(folder)) as service, ThreadPoolExecutor() as pool:
        jobs = [lambda: statuses.append(service.post(body_of(1)).status_code)]
        jobs += [partial(lambda seen: seen.append(scrape(service)), seen) for seen in scrapes]
        running = [pool.submit(repeat_until, is_over, job) for job in jobs]
        try:
            for number in range(3):
                write_bundle_with(f"new-{number}", folder, number)
                service.send_signal(signal.SIGHUP)
                wait_until(lambda: reloads_of(service) == number + 1)  # noqa: B023
                victim = min(service.workers())
                with suppress(ProcessLookupError):  # the reload may have ended it meanwhile
                    os.kill(victim, signal.SIGKILL)
                wait_until(lambda: victim not in (now := service.workers()) and len(now) == 2)  # noqa: B023
        finally:
            is_over.set()
        for job in running:
            job.result()
        last = service.metrics()
        assert service.stop() == 0
    assert {*statuses} == {200}
    for seen in scrapes:
        assert len(seen) > 10
        for before, after in pairwise(seen):
            assert not [name for name in before.keys() & after.keys() if after[name] < before[name]]
    assert 0 < last[OK] <= len(statuses)
    assert last['bidlight_reloads_total{outcome="ok"}'] == 3
    assert {value for name, value in last.items() if name.startswith("bidlight_metric_faults")} == {0}
    # Nothing is left of the bundles before.
    assert ["bundle-2@" in name for name in last if name.startswith("bidlight_bundle_info")] == [True]
    assert [name.partition("{")[2] for name in last if '"new-' in name] == ['arm="only",field="new-2"}'] * 2


def test_workers_that_are_killed_have_successors_that_count_on(
    bundles: dict[str, Path], tmp_path: Path
) -> None:
    with running_service(tmp_path, arguments_for(bundles["control"])) as service:
        for answered in (4, 8, 12):
            before = service.workers()
            for _ in range(4):
                assert service.post(body_of(1)).status_code == 200
            wait_until(lambda: service.metrics()[OK] == answered)  # noqa: B023
            for worker in before:
                os.kill(worker, signal.SIGKILL)
            wait_until(lambda: not before & (now := service.workers()) and len(now) == 2)  # noqa: B023
        assert service.metrics()[OK] == 12
        assert service.stop() == 0


def test_workers_label_few_unknown_names_together(bundles: dict[str, Path], tmp_path: Path) -> None:
    with running_service(tmp_path, arguments_for(bundles["control"])) as service:
        for number in range(60):
            body = {"context": {f"name-{number}": 1}, "candidates": [{}]}
            assert service.post(body).status_code == 200
            if number == 30:
                time.sleep(0.5)  # what is not yet published when a worker is killed is lost
                with suppress(ProcessLookupError):  # a reload may have ended it meanwhile
                    os.kill(min(service.workers()), signal.SIGKILL)
        time.sleep(0.5)
        names = {
            name: value
            for name, value in service.metrics().items()
            if name.startswith("bidlight_unknown_names_total")
        }
        # Two workers that name one at the same moment do not see each other's.
        assert MAX_UNKNOWN_NAMES < len(names) <= MAX_UNKNOWN_NAMES + 2
        assert 50 < sum(names.values()) <= 60
        assert service.stop() == 0


def test_a_reload_waits_while_too_many_workers_still_answer(bundles: dict[str, Path], tmp_path: Path) -> None:
    held: list[socket.socket] = []
    arguments = [*arguments_for(bundles["control"]), "--try-reloads", "off"]
    asked = 0
    with running_service(tmp_path, arguments) as service, ExitStack() as stack:

        def is_full() -> bool:
            return "no worker can be started now" in service.errors.read_text()

        # A worker that has read nothing of a request yet stops at once, so it may take some reloads more.
        while not is_full():
            assert asked < 3 * PROCESSES_A_SLOT
            connections = [stack.enter_context(closing(service.connect())) for _ in range(16)]
            for connection in connections:  # requests under way keep every worker from stopping at once
                connection.sendall(message(body_of(2))[:-5])
            held += connections
            assert service.post(body_of(1)).status_code == 200
            service.send_signal(signal.SIGHUP)
            asked += 1
            wait_until(lambda: is_full() or reloads_of(service) == asked)  # noqa: B023
        # One that has just ended still has its place until the supervisor looks.
        assert PROCESSES_A_SLOT < len(service.workers()) <= PROCESSES_A_SLOT * 2
        assert service.post(body_of(1)).status_code == 200
        for connection in held:
            connection.sendall(message(body_of(2))[-5:])
            assert read_answer(connection)[0] == 200
            connection.close()
        wait_until(lambda: reloads_of(service) == asked)
        assert service.stop() == 0
