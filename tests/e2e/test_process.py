"""The service as a process: what it prints, how it stops and reloads, and why it refuses to start."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from loadtest.processes.ports import free_port
from tests.e2e.raw_http import body_of, message, read_answer, taken_connections, wait_until
from tests.running import JSON, REPOSITORY, RunningService, running_service, start_service
from tests.tiny_bundle import write_tiny_bundle


def test_the_line_it_prints_works(bundles: dict[str, Path], tmp_path: Path) -> None:
    arms = ["--arm", f"control={bundles['control']}:90", "--arm", f"t={bundles['treatment']}:10"]
    with running_service(tmp_path, arms) as service:
        first, *lines = service.output.read_text().splitlines()
        assert first.startswith(f"Bidlight serves on {service.url} ")
        assert [line.split(":")[0] for line in lines] == ["  arm control", "  arm t", "Try"]
        command = shlex.split(lines[2].removeprefix("Try: "))
        assert command[:2] == ["curl", "-s"]
        body = command[command.index("-d") + 1]
        answer = httpx.post(command[2], content=body, headers=JSON, trust_env=False)
        assert answer.status_code == 200
        assert answer.json()["results"][0]["bid"] is not None
        assert service.stop() == 0
    assert service.errors.read_text() == ""


def test_an_ipv6_address_is_announced_as_a_url(bundles: dict[str, Path], tmp_path: Path) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    service = start_service(tmp_path, ["--arm", f"only={bundles['control']}", "--host", "::1"])
    try:
        wait_until(lambda: service.output.stat().st_size > 0)
        assert f"http://[::1]:{service.port}/docs" in service.output.read_text()
    finally:
        service.stop()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_signal_lets_requests_in_flight_finish_and_refuses_new_connections(
    bundles: dict[str, Path], tmp_path: Path, workers: str, number: signal.Signals
) -> None:
    arguments = ["--arm", f"only={bundles['control']}", "--workers", workers]
    with running_service(tmp_path, arguments) as service:
        sent = message(body_of(10))
        connections = taken_connections(service, 8)
        for connection in connections:
            connection.sendall(sent[:-20])
        for _ in range(8):  # later requests are answered, so the earlier ones have begun, in either worker
            assert service.post(body_of(1)).status_code == 200
        service.send_signal(number)
        wait_until(lambda: not service.accepts())
        for connection in connections:
            connection.sendall(sent[-20:])
        for connection in connections:
            with connection:
                status, headers, answer = read_answer(connection)
            assert (status, headers["connection"], len(answer["results"])) == (200, "close", 10)
        assert service.wait() == 0
    assert service.errors.read_text() == ""


def test_requests_sent_before_a_sigterm_are_answered(bundles: dict[str, Path], tmp_path: Path) -> None:
    with running_service(tmp_path, ["--arm", f"only={bundles['control']}"]) as service:
        connections = taken_connections(service, 20)
        service.send_signal(signal.SIGSTOP)
        for number, connection in enumerate(connections):
            connection.sendall(message(body_of(50, f"req-{number}")))
        service.send_signal(signal.SIGTERM)
        service.send_signal(signal.SIGCONT)
        for number, connection in enumerate(connections):
            with connection:
                status, _, answer = read_answer(connection)
            assert (status, answer["id"], len(answer["results"])) == (200, f"req-{number}", 50)
        assert service.wait() == 0


def test_a_request_in_transit_when_the_service_stops_is_answered(
    bundles: dict[str, Path], tmp_path: Path
) -> None:
    with running_service(tmp_path, ["--arm", f"only={bundles['control']}"]) as service:
        connections = taken_connections(service, 8)
        service.send_signal(signal.SIGTERM)
        wait_until(lambda: not service.accepts())
        for connection in connections[:4]:
            connection.sendall(message(body_of(2)))
            status, headers, _ = read_answer(connection)
            assert (status, headers["connection"]) == (200, "close")
        for connection in connections:  # the others are idle
            assert connection.recv(1) == b""
            connection.close()
        assert service.wait() == 0


@pytest.mark.parametrize("workers", ["1", "2"])
def test_the_drain_ends_for_clients_that_stop_reading_or_writing(
    bundles: dict[str, Path], tmp_path: Path, workers: str
) -> None:
    options = ["--drain-seconds", "1", "--workers", workers]
    with running_service(tmp_path, ["--arm", f"only={bundles['control']}", *options]) as service:
        sent = message(body_of(1000))
        with service.connect() as silent, service.connect() as deaf:
            silent.sendall(sent[:-1])
            deaf.settimeout(1.0)
            with contextlib.suppress(TimeoutError):  # answers pile up until the service stops reading
                while True:
                    deaf.sendall(sent)
            service.send_signal(signal.SIGTERM)
            assert service.wait() == 0
            with contextlib.suppress(ConnectionResetError):
                assert silent.recv(1) == b""
    assert service.errors.read_text() == ""


def test_what_a_client_can_repeat_is_logged_once_a_second_with_a_count(
    bundles: dict[str, Path], tmp_path: Path
) -> None:
    with running_service(tmp_path, ["--arm", f"only={bundles['control']}"]) as service:
        unknown = {f"name {number}\nERROR forged": 1 for number in range(15)}
        assert service.post({"context": unknown, "candidates": [{}]}).status_code == 200
        wait_until(lambda: "left out" in service.errors.read_text())
        assert service.stop() == 0
    lines = service.errors.read_text().splitlines()
    assert [line.partition("ignored")[2] for line in lines] == ["", " (13 more like it were left out)"]
    assert all("no field is named" in line for line in lines)


def handles(service: RunningService, *numbers: signal.Signals) -> bool:
    """Whether the process handles or ignores these signals."""
    status = Path(f"/proc/{service.process.pid}/status").read_text()
    masks = dict(line.split(":") for line in status.splitlines() if line.startswith("Sig"))
    handled = int(masks["SigIgn"], 16) | int(masks["SigCgt"], 16)
    return all(handled >> (number - 1) & 1 for number in numbers)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_starting_service_ends_at_sigterm_and_not_at_sighup(
    bundles: dict[str, Path], tmp_path: Path, workers: str
) -> None:
    arguments = ["--arm", f"only={bundles['control']}", "--workers", workers]
    service = start_service(tmp_path, arguments)
    try:
        wait_until(lambda: handles(service, signal.SIGHUP, signal.SIGTERM))

        def is_ready_after_one_more() -> bool:
            service.send_signal(signal.SIGHUP)
            return service.output.stat().st_size > 0

        wait_until(is_ready_after_one_more)
        assert service.post(body_of(1)).status_code == 200
    finally:
        assert service.stop() == 0
    service = start_service(tmp_path, arguments)
    wait_until(lambda: handles(service, signal.SIGHUP, signal.SIGTERM))
    assert service.stop() == 0
    assert (service.output.read_text(), service.errors.read_text()) == ("", "")


def sockets_of(process: int) -> int:
    """The number of sockets of a process."""
    links = []
    for descriptor in Path(f"/proc/{process}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            links.append(str(descriptor.readlink()))
    return sum(link.startswith("socket:") for link in links)


def test_metrics_of_two_workers_are_the_totals(bundles: dict[str, Path], tmp_path: Path) -> None:
    arguments = ["--arm", f"only={bundles['control']}", "--workers", "2"]
    with running_service(tmp_path, arguments) as service:
        idle = {worker: sockets_of(worker) for worker in service.workers()}
        connections = taken_connections(service, 30)
        assert all(sockets_of(worker) > idle[worker] + 3 for worker in idle)  # each has some of them
        statuses = []
        for number in range(170):
            connection = connections[number % 30]
            connection.sendall(message(b"{}" if number % 10 == 0 else body_of(3)))
            statuses.append(read_answer(connection)[0])
        for connection in connections:
            connection.close()
        assert (statuses.count(200), statuses.count(422)) == (153, 17)
        ok = 'bidlight_requests_total{arm="only",outcome="ok"}'
        wait_until(lambda: service.metrics()[ok] == 30 + 153)  # the other worker has published too
        for _ in range(6):  # either worker answers
            metrics = service.metrics()
            assert metrics[ok] == 30 + 153
            assert metrics['bidlight_requests_total{arm="",outcome="invalid_field"}'] == 17
            assert metrics['bidlight_request_seconds_count{arm="only"}'] == 30 + 153
            assert metrics['bidlight_pctr_count{arm="only"}'] == 30 + 153 * 3
            assert metrics['bidlight_batch_rows_sum{arm="only"}'] == 30 + 153 * 3
        assert [value for name, value in metrics.items() if name.startswith("bidlight_bundle_info")] == [1]
        assert service.stop() == 0
    assert service.errors.read_text() == ""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_dead_worker_is_replaced_and_its_counts_stay(
    bundles: dict[str, Path], tmp_path: Path, number: signal.Signals
) -> None:
    arguments = ["--arm", f"only={bundles['control']}", "--workers", "2"]
    with running_service(tmp_path, arguments) as service:
        for _ in range(20):
            assert service.post(body_of(1)).status_code == 200
        ok = 'bidlight_requests_total{arm="only",outcome="ok"}'
        wait_until(lambda: service.metrics()[ok] == 20)  # what a scrape has counted survives its worker
        victim = min(service.workers())
        os.kill(victim, number)
        wait_until(lambda: victim not in (now := service.workers()) and len(now) == 2)
        for _ in range(20):
            assert service.post(body_of(1)).status_code == 200
        wait_until(lambda: service.metrics()[ok] == 40)
        assert service.stop() == 0


@pytest.mark.parametrize("workers", ["1", "2"])
def test_sighup_serves_the_new_bundle(bundles: dict[str, Path], tmp_path: Path, workers: str) -> None:
    folder = shutil.copytree(bundles["control"], tmp_path / "bundle")
    with running_service(tmp_path, ["--arm", f"only={folder}", "--workers", workers]) as service:
        processes, asked = service.workers(), 20
        assert {service.post(body_of(1)).status_code for _ in range(asked)} == {200}
        write_tiny_bundle(folder, name="newer", seed=7)
        service.send_signal(signal.SIGHUP)
        while service.metrics().get('bidlight_reloads_total{outcome="ok"}') != 1:
            assert service.post(body_of(1)).status_code == 200
            asked += 1
        wait_until(lambda: len(service.workers()) == len(processes))
        assert service.post(body_of(1)).headers["x-bundle"].startswith("newer@")
        ok = 'bidlight_requests_total{arm="only",outcome="ok"}'
        wait_until(lambda: service.metrics()[ok] == asked + 1)
        metrics = service.metrics()
        assert metrics['bidlight_pctr_count{arm="only"}'] == asked + 1
        served = [name for name in metrics if name.startswith("bidlight_bundle_info")]
        assert len(served) == 1
        assert 'bundle="newer@' in served[0]
        assert not service.workers() & processes  # of several, each was replaced
        assert service.stop() == 0
    assert service.errors.read_text().count("reloaded only (newer@") == 1


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_bundle_that_is_refused_leaves_the_arms_as_they_were(
    bundles: dict[str, Path], tmp_path: Path, workers: str
) -> None:
    folder = shutil.copytree(bundles["control"], tmp_path / "bundle")
    with running_service(tmp_path, ["--arm", f"only={folder}", "--workers", workers]) as service:
        before = service.post(body_of(1))
        (folder / "golden.json").write_text("{}", encoding="utf-8")
        service.send_signal(signal.SIGHUP)
        wait_until(lambda: service.metrics().get('bidlight_reloads_total{outcome="refused"}') == 1)
        after = service.post(body_of(1))
        assert (after.status_code, after.content) == (200, before.content)
        with service.client() as client:
            assert client.get("/readyz").status_code == 200
        assert service.stop() == 0
    lines = service.errors.read_text().strip().splitlines()
    assert len(lines) == 1
    assert "go on as they were: arm only: " in lines[0]
    assert "golden.json" in lines[0]


def refusal_of(folder: Path, arguments: list[str]) -> str:
    """The errors of a service that must refuse to start, with an error status and without output."""
    service = start_service(folder, arguments)
    try:
        assert service.wait() != 0
        assert service.output.read_text() == ""
    finally:
        service.stop()
    return service.errors.read_text()


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_corrupted_bundle_is_refused_in_one_line(
    bundles: dict[str, Path], tmp_path: Path, workers: str
) -> None:
    broken = shutil.copytree(bundles["control"], tmp_path / "broken")
    graph = broken / "model.float32.onnx"
    data = bytearray(graph.read_bytes())
    data[len(data) // 2] ^= 1
    graph.write_bytes(data)
    arms = ["--arm", f"good={bundles['treatment']}", "--arm", f"bad={broken}"]
    errors = refusal_of(tmp_path, [*arms, "--workers", workers])
    assert len(errors.strip().splitlines()) == 1, errors
    assert "arm bad" in errors
    assert "broken/model.float32.onnx' must be of SHA-256" in errors


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_taken_port_is_named(
    service: RunningService, bundles: dict[str, Path], tmp_path: Path, workers: str
) -> None:
    arguments = ["--arm", f"only={bundles['control']}", "--port", str(service.port), "--workers", workers]
    assert "address already in use" in refusal_of(tmp_path, arguments).lower()


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--arm", "only"], "'arm' must be NAME=FOLDER"),
        (["--arm", "only=absent"], "arm only: 'absent/manifest.json' must be a bundle's manifest"),
        (["--arm", "only={bundle}:heavy"], "'weight' of arm only"),
        (["--arm", "a={bundle}:0"], "'weight' must be above 0"),
        (["--arm", "a={bundle}", "--arm", "a={bundle}"], "'a' twice"),
        (["--arm", "a={bundle}", "--bid-cap", "-1"], "bid policy: 'cap' must be a finite number"),
    ],
)
def test_invalid_settings_are_refused_in_one_line(
    bundles: dict[str, Path], tmp_path: Path, arguments: list[str], part: str, workers: str
) -> None:
    arguments = [argument.format(bundle=bundles["control"]) for argument in arguments]
    errors = refusal_of(tmp_path, [*arguments, "--workers", workers])
    assert len(errors.strip().splitlines()) == 1, errors
    assert part in errors


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_full_disk_behind_its_output_stops_no_bidding(bundles: dict[str, Path], workers: str) -> None:
    port = free_port()
    arguments = ["--arm", f"only={bundles['control']}", "--port", str(port), "--workers", workers]
    environment = {**os.environ, "BIDLIGHT_NO_SUCH_SETTING": "1"}
    with Path("/dev/full").open("wb") as full:
        process = subprocess.Popen(
            [sys.executable, "-m", "service", *arguments],
            stdout=full,
            stderr=full,
            env=environment,
            cwd=REPOSITORY,
        )
    service = RunningService(process, port, Path("/dev/null"), Path("/dev/null"))
    try:
        wait_until(service.accepts)
        assert service.post(body_of(1)).status_code == 200
    finally:
        assert service.stop() == 0
