"""A real Prometheus scrapes a real service: rules are evaluated, and every panel shows something.

What a query joins on is known only when it meets series.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from loadtest.processes.ports import free_port
from service.control.client import ControlClient
from service.control.protocol import StartCanary
from service.features.load import main as load_features
from tests.deploy.promql import RULES, dashboard_queries
from tests.e2e.raw_http import wait_until
from tests.redis_server import running_redis
from tests.running import RunningService, running_service
from tests.test_deploy import PROMETHEUS
from tests.tiny_bundle import tiny_rows, write_tiny_bundle

# What shows nothing as long as all is well, and what may not be well on a machine with other work.
EMPTY_WHEN_WELL = {"Alerts that fire"}
MAY_FIRE = {"BidlightLatencyBurn"}
ROUNDS = 100


@contextmanager
def running_prometheus(folder: Path, target: str) -> Iterator[httpx.Client]:
    """The server as deploy/ configures it, but faster; `target` is scraped as the job of the service."""
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("Prometheus is not installed (Debian: prometheus)")
    (job,) = [job for job in PROMETHEUS["scrape_configs"] if job["job_name"] == "bidlight"]
    settings = {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(RULES / "*.yml")],
        "scrape_configs": [{**job, "static_configs": [{"targets": [target]}]}],
    }
    file, port = folder / "prometheus.yml", free_port()
    file.write_text(yaml.safe_dump(settings), encoding="utf-8")
    options = [f"--config.file={file}", f"--storage.tsdb.path={folder / 'db'}"]
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(
            [program, *options, f"--web.listen-address=127.0.0.1:{port}"], stdout=log, stderr=log
        )
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
                wait_until(lambda: is_ready(client))
                yield client
        finally:
            process.terminate()
            process.wait(timeout=30)


def is_ready(client: httpx.Client) -> bool:
    try:
        return client.get("/-/ready").status_code == 200
    except httpx.TransportError:
        return False


def ask(client: httpx.Client, query: str) -> list[dict[str, Any]]:
    """The series of a query now."""
    answer = client.get("/api/v1/query", params={"query": query}).json()
    assert answer["status"] == "success", (query, answer)
    found: list[dict[str, Any]] = answer["data"]["result"]
    return found


def bid_and_report(service: RunningService, rounds: int) -> None:
    """Requests with an unknown name and an ad that is known, each answer shown and clicked."""
    context = {**tiny_rows(1)[0]["context"], "renamed": 1}
    # A shadow agrees with the order of two candidates, or does not.
    candidates = [{"id": "ad-1", "value_per_click": 1.0}, {"id": "ad-2", "features": {"ad": "a2"}}]
    with service.client() as client:
        for number in range(rounds):
            body = {"id": f"request-{number}", "tracking": True, "context": context, "candidates": candidates}
            result, _ = client.post("/predict", json=body).json()["results"]
            events = [{"token": result["token"], "type": kind} for kind in ("impression", "click")]
            assert client.post("/feedback", json={"events": events}).json()["counted"] == 2
            time.sleep(0.03)


def test_rules_are_evaluated_and_every_panel_shows_something(tmp_path: Path) -> None:
    missing = {"site": 0.1}
    arms = {
        name: write_tiny_bundle(tmp_path / name, name, seed, missing=missing)
        for seed, name in enumerate(("control", "treatment", "candidate"))
    }
    (tmp_path / "feedback.keys").write_text(f"0 {'5a' * 16}\n", encoding="utf-8")
    for folder in ("store", "log"):
        (tmp_path / folder).mkdir()
    ads, store = tmp_path / "ads.csv", f"lmdb://{tmp_path / 'store'}"
    ads.write_text("ad_id,ad\nad-1,a1\n", encoding="utf-8")
    loaded = ["ads", str(ads), "--key", "ad_id", "--bundle", str(arms["control"]), "--store", store]
    load_features(loaded)
    options = [
        *(option for name, bundle in arms.items() for option in ("--arm", f"{name}={bundle}")),
        *("--feedback-keys", str(tmp_path / "feedback.keys"), "--feedback-log", str(tmp_path / "log")),
        *("--live-calibration", "observe", "--feature-store", store, "--admin-port", "0"),
        *("--live-period-seconds", "2"),  # looked at once a second: a shorter one may always be missed
        *("--control-socket", str(tmp_path / "control.socket")),
        *("--shadow", "candidate=control:1", "--explore-share", "0.5"),
    ]
    with (
        running_redis(tmp_path) as redis,
        running_service(tmp_path, [*options, "--feedback-store", redis.url]) as service,
    ):
        target = service.admin_url.removeprefix("http://")
        with running_prometheus(tmp_path, target) as prometheus:
            wait_until(lambda: bool(ask(prometheus, "up == 1")))
            with ControlClient(str(tmp_path / "control.socket"), 30.0) as control:
                assert control.ask(StartCanary("treatment")).error is None
            bid_and_report(service, ROUNDS)
            wait_until(lambda: bool(ask(prometheus, "bidlight:pcoc:increase1h > 0")), seconds=60.0)
            wait_until(lambda: bool(ask(prometheus, "bidlight_live_machines == 1")), seconds=60.0)
            groups = prometheus.get("/api/v1/rules").json()["data"]["groups"]
            failed = {
                rule["name"]: rule for group in groups for rule in group["rules"] if rule["health"] == "err"
            }
            assert not failed
            empty = {title for title, query in dashboard_queries() if not ask(prometheus, query)}
            assert empty <= EMPTY_WHEN_WELL
            firing = ask(prometheus, "ALERTS{alertstate='firing'}")
            assert {alert["metric"]["alertname"] for alert in firing} <= MAY_FIRE
            (up,) = ask(prometheus, "up")
            assert (up["metric"]["job"], up["value"][1]) == ("bidlight", "1")
