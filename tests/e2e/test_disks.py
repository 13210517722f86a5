"""A disk that is full, read-only or gone stops nothing: the service needs no file but the bundles'."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.e2e.raw_http import body_of, wait_until
from tests.running import RunningService, running_service, start_service

RELOADS = 'bidlight_reloads_total{outcome="ok"}'


def assert_works(service: RunningService) -> None:
    """It bids, reloads, and stops as it should."""
    try:
        wait_until(lambda: service.accepts() and service.post(body_of(1)).status_code == 200)
        service.send_signal(signal.SIGHUP)
        wait_until(lambda: service.metrics().get(RELOADS) == 1)
        assert service.post(body_of(1)).status_code == 200
    finally:
        status = service.stop()
    assert status == 0


@pytest.mark.parametrize("workers", ["1", "2"])
def test_no_temporary_file_is_made(bundles: dict[str, Path], tmp_path: Path, workers: str) -> None:
    (temporary := tmp_path / "temporary").mkdir()
    arguments = ["--arm", f"only={bundles['control']}", "--workers", workers]
    with running_service(tmp_path, arguments, {"TMPDIR": str(temporary)}) as service:
        temporary.rmdir()  # it is empty
        assert_works(service)
    assert not temporary.exists()


@pytest.mark.parametrize("redirected", [">/dev/full 2>/dev/full", "<&- >&- 2>&-"])
@pytest.mark.parametrize("workers", ["1", "2"])
def test_streams_that_are_full_or_closed_stop_nothing(
    bundles: dict[str, Path], tmp_path: Path, workers: str, redirected: str
) -> None:
    arguments = ["--arm", f"only={bundles['control']}", "--workers", workers]
    assert_works(start_service(tmp_path, arguments, {"BIDLIGHT_UNKNOWN": "1"}, redirected))
