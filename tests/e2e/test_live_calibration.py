"""Feedback that moves the pCTRs of a service with several workers."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from service.explain_bid import FAILED
from service.explain_bid import main as explain_bid
from tests.e2e.commanded import ask, commanded
from tests.e2e.raw_http import wait_until
from tests.running import ANY_WORKER, JSON, RunningService, running_service
from tests.tiny_bundle import tiny_rows

REQUEST = {
    "context": tiny_rows(1)[0]["context"],
    "candidates": {"features": {"ad": ["a1"] * 900}},
    "tracking": True,
}


def results(service: RunningService) -> dict[str, list[Any]]:
    answer = service.post(REQUEST)
    assert answer.status_code == 200, answer.text
    found: dict[str, list[Any]] = answer.json()["results"]
    return found


def report(service: RunningService, share: float) -> None:
    """Show ads in several requests, of which this share is clicked."""
    for _ in range(2):
        tokens = results(service)["token"]
        events = [{"token": token, "type": "impression"} for token in tokens]
        events += [{"token": token, "type": "click"} for token in tokens[: int(share * len(tokens))]]
        with service.client(headers=JSON) as client:
            answer = client.post("/feedback", content=json.dumps({"events": events}).encode())
        assert answer.json()["counted"] == len(events)


def arm(service: RunningService) -> dict[str, Any]:
    with service.client() as client:
        found: dict[str, Any] = client.get("/arms").json()["arms"][0]
    return found


def state(service: RunningService) -> dict[str, Any]:
    found: dict[str, Any] = arm(service)["live_calibration"]
    return found


def decisions(service: RunningService, decision: str) -> float:
    name = f'bidlight_live_decisions_total{{arm="only",decision="{decision}"}}'
    return service.metrics().get(name, 0)


@pytest.mark.parametrize("mode", ["on", "observe"])
def test_clicks_move_the_pctrs_of_all_workers(bundles: dict[str, Path], tmp_path: Path, mode: str) -> None:
    (tmp_path / "keys").write_text(f"0 {'5e' * 16}\n", encoding="ascii")
    folder = shutil.copytree(bundles["control"], tmp_path / "bundle")
    options = ["--arm", f"only={folder}", "--feedback-keys", str(tmp_path / "keys")]
    with running_service(tmp_path, options) as off:
        own = results(off)["pctr"]
        assert off.stop() == 0
    options += ["--workers", "2", "--live-calibration", mode, "--live-period-seconds", "1"]
    with running_service(tmp_path, [*options, "--click-window-seconds", "1"]) as service:
        assert results(service)["pctr"] == own
        share = min(0.9, 1.3 * own[0])
        report(service, share)
        wait_until(lambda: decisions(service, "fitted") == 1)
        assert results(service)["pctr"] == own  # it was not judged yet
        report(service, share)
        wait_until(lambda: state(service)["revision"] == 1)
        assert decisions(service, "adopted") == 1
        assert state(service)["pcoc"]["bundle"] == pytest.approx(own[0] / share, rel=0.02)
        if mode == "observe":
            assert results(service)["pctr"] == own
        else:
            wait_until(lambda: all(results(service)["pctr"] != own for _ in range(ANY_WORKER)))
            old = service.workers()
            for _ in range(6):  # each over a new connection, to any worker
                found = results(service)["pctr"]
                assert set(found) == {found[0]}
                assert found[0] == pytest.approx(share, rel=0.1)
            os.kill(min(old), signal.SIGKILL)
            wait_until(lambda: len(service.workers() - old) == 1)
            wait_until(service.accepts)
            for _ in range(6):
                assert results(service)["pctr"] == found
            shutil.rmtree(folder)
            shutil.copytree(bundles["treatment"], folder)
            service.send_signal(signal.SIGHUP)
            wait_until(lambda: service.metrics().get('bidlight_reloads_total{outcome="ok"}') == 1)
            wait_until(lambda: arm(service)["bundle"].startswith("tiny-treatment"))
            wait_until(lambda: state(service)["revision"] == 0)
        assert service.stop() == 0


@pytest.mark.parametrize("workers", ["1", "2"])
def test_commands_freeze_and_reset_what_all_workers_serve(
    bundles: dict[str, Path], tmp_path: Path, workers: str
) -> None:
    (tmp_path / "keys").write_text(f"0 {'5e' * 16}\n", encoding="ascii")
    options = ["--arm", f"only={bundles['control']}", "--feedback-keys", str(tmp_path / "keys")]
    options += ["--live-calibration", "on", "--live-period-seconds", "1", "--click-window-seconds", "1"]
    with commanded(tmp_path, [*options, "--workers", workers]) as running:
        service = running.service
        own = results(service)["pctr"]
        (only,) = running.do("calibration")["calibrations"]
        assert (only["arm"], only["mode"], only["revision"], only["pcoc_live"]) == ("only", "on", 0, None)
        for _ in range(2):
            report(service, min(0.9, 1.3 * own[0]))
            wait_until(lambda: state(service)["clicks"] > 0)
            wait_until(lambda: decisions(service, "fitted") == 1)
        wait_until(lambda: state(service)["revision"] == 1)
        wait_until(lambda: all(results(service)["pctr"] != own for _ in range(ANY_WORKER)))
        (tmp_path / "request").write_text(json.dumps(REQUEST))
        (tmp_path / "answer").write_bytes(service.post(REQUEST).content)
        files = ["--bundle", str(bundles["control"]), "--request", str(tmp_path / "request")]
        files += ["--answer", str(tmp_path / "answer"), "--control-socket", str(running.path)]
        assert explain_bid(files) == 0
        answer = running.do("calibration", "freeze", "only")
        assert answer["done"]["is_changed"] is True
        assert [found["is_frozen"] for found in answer["calibrations"]] == [True]
        assert running.do("calibration", "freeze", "only")["done"]["is_changed"] is False
        assert state(service)["is_frozen"] is True
        table = ask(running.path, "calibration").output.splitlines()
        assert table[0].split()[:3] == ["arm", "mode", "revision"]
        assert table[1].split()[:4] == ["only", "on,", "frozen", "1"]
        (only,) = running.do("calibration", "reset", "only")["calibrations"]
        assert (only["revision"], only["intercept"], only["slope"], only["clicks"]) == (2, 0.0, 1.0, 0.0)
        wait_until(lambda: all(results(service)["pctr"] == own for _ in range(ANY_WORKER)))
        assert explain_bid(files) == FAILED  # the revision that it names is served no more
        assert running.do("calibration", "thaw", "only")["calibrations"][0]["is_frozen"] is False
        refused = ask(running.path, "calibration", "reset", "nobody")
        assert (refused.status, refused.output) == (1, "")
        assert "'arm' must be one of only (got 'nobody')" in refused.errors
        kept = running.events()
        assert [event["command"].removeprefix("calibration ") for event in kept] == [
            "freeze",
            "reset",
            "thaw",
        ]
        assert [event["after"]["only"]["revision"] for event in kept] == [1, 2, 2]
        assert kept[1]["before"]["only"]["intercept"] != 0.0
        assert all(event["user"] == os.getuid() for event in kept)
        assert service.stop() == 0
    assert "calibration reset by user" in (log := running.service.errors.read_text())
    assert "only has no live calibration, revision 2 (before: revision 1)" in log
