"""A bundle that does not load, however it fails, costs a start or a reload, and never an answer."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from pathlib import Path

import pytest

from tests.e2e.raw_http import body_of, wait_until
from tests.forged_bundle import load_for_ever
from tests.running import running_service, start_service


@pytest.fixture
def folder(bundles: dict[str, Path], tmp_path: Path) -> Path:
    return shutil.copytree(bundles["control"], tmp_path / "bundle")


@pytest.fixture(scope="module")
def endless(bundles: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle whose load takes minutes."""
    folder = shutil.copytree(bundles["control"], tmp_path_factory.mktemp("endless") / "bundle")
    load_for_ever(folder)
    return folder


def replace_by(folder: Path, other: Path) -> None:
    shutil.rmtree(folder)
    shutil.copytree(other, folder)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_signal_ends_a_start_that_loads(endless: Path, tmp_path: Path, workers: str) -> None:
    service = start_service(tmp_path, ["--arm", f"only={endless}", "--workers", workers])

    def loads() -> bool:
        """Whether a process has another thread, which loads."""
        processes = {service.process.pid, *service.workers()}
        return any(len(list(Path(f"/proc/{process}/task").iterdir())) > 1 for process in processes)

    wait_until(loads)
    threading.Event().wait(1.0)  # until it has read the files
    assert service.stop() == 0
    assert (service.output.read_text(), service.errors.read_text()) == ("", "")


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_start_that_does_not_end_is_refused(endless: Path, tmp_path: Path, workers: str) -> None:
    arguments = ["--arm", f"only={endless}", "--workers", workers, "--load-seconds", "1"]
    service = start_service(tmp_path, arguments)
    assert service.wait() == 3
    lines = service.errors.read_text().strip().splitlines()
    assert len(lines) == 1, lines
    assert "the bundles must be loaded within 1 s" in lines[0]


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_reload_whose_process_dies_changes_nothing(
    folder: Path, endless: Path, tmp_path: Path, workers: str
) -> None:
    with running_service(tmp_path, ["--arm", f"only={folder}", "--workers", workers]) as service:
        before = service.post(body_of(1))
        replace_by(folder, endless)
        for number in (signal.SIGKILL, signal.SIGSEGV):
            service.send_signal(signal.SIGHUP)
            wait_until(lambda: service.trial() != 0)
            assert service.post(body_of(1)).content == before.content  # it serves meanwhile
            os.kill(service.trial(), number)
            wait_until(lambda: f"it ended with {number.name}" in service.errors.read_text())  # noqa: B023
        assert service.post(body_of(1)).content == before.content
        assert service.metrics()['bidlight_reloads_total{outcome="refused"}'] == 2
        assert service.stop() == 0


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_reload_that_does_not_end_changes_nothing(
    folder: Path, endless: Path, tmp_path: Path, workers: str
) -> None:
    arguments = ["--arm", f"only={folder}", "--workers", workers, "--load-seconds", "3"]
    with running_service(tmp_path, arguments) as service:
        before = service.post(body_of(1))
        replace_by(folder, endless)
        service.send_signal(signal.SIGHUP)
        wait_until(lambda: "must be loaded within 3 s" in service.errors.read_text())
        assert service.post(body_of(1)).content == before.content
        assert service.stop() == 0


@pytest.mark.parametrize("tries", ["on", "off"])
@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_signal_ends_a_service_that_reloads(
    folder: Path, endless: Path, tmp_path: Path, workers: str, tries: str
) -> None:
    arguments = ["--arm", f"only={folder}", "--workers", workers, "--try-reloads", tries]
    with running_service(tmp_path, arguments) as service:
        before = service.workers()
        replace_by(folder, endless)
        service.send_signal(signal.SIGHUP)
        if tries == "on":
            wait_until(lambda: service.trial() != 0)
        elif workers == "2":
            wait_until(lambda: bool(service.workers() - before))
        assert service.post(body_of(1)).status_code == 200
        tried = service.trial()
        assert service.stop() == 0
        assert not (tried and Path(f"/proc/{tried}").exists())
    assert service.errors.read_text() == ""
