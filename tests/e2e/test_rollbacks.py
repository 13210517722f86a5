"""Reloads and rollbacks by command: the bundle before is one command away, whatever is under way."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.e2e.commanded import WORKERS, arms_of, ask, commanded
from tests.e2e.raw_http import body_of, kept_sending, wait_until
from tests.running import JSON
from tests.tiny_bundle import write_tiny_bundle

# Bundles are rolled out and back so often under load, by so many workers. ROLLOUTS=100 in the environment
# takes minutes with each number of ROLLOUT_WORKERS.
ROLLOUTS = int(os.environ.get("ROLLOUTS", "5"))
ROLLOUT_WORKERS = os.environ.get("ROLLOUT_WORKERS", "1 2").split()


@WORKERS
def test_the_bundle_before_a_reload_is_one_command_away(tmp_path: Path, workers: str) -> None:
    folders = {
        name: write_tiny_bundle(tmp_path / name, name=f"first-{name}", seed=number)
        for number, name in enumerate(("control", "treatment"))
    }
    options = ["--workers", workers, "--try-reloads", "off"]
    with commanded(tmp_path, [*arms_of(folders), *options]) as running:

        def serving(*command: str) -> list[str]:
            """The names of the bundles after a command, as answers have them."""
            status = running.do(*command)["status"]
            wait_until(lambda: len(running.do("status")["status"]["workers"]) == int(workers))
            for arm in status["arms"]:
                headers = {**JSON, "x-arm": arm["name"]}
                for _ in range(6):
                    with running.service.client(headers=headers) as client:
                        assert client.post("/predict", content=body_of(1)).json()["bundle"] == arm["bundle"]
            return [arm["bundle"].partition("@")[0] for arm in status["arms"]]

        refused = ask(running.path, "rollback")
        assert refused.status == 1
        assert "no arm has served another bundle since the start" in refused.errors
        for number, (name, folder) in enumerate(folders.items()):
            write_tiny_bundle(folder, name=f"second-{name}", seed=5 + number)
        assert serving("reload") == ["second-control", "second-treatment"]
        assert serving("rollback", "treatment") == ["second-control", "first-treatment"]
        assert serving("rollback") == ["first-control", "second-treatment"]
        running.do("weights", "treatment=2")
        running.do("kill", "treatment")
        if workers == "2":
            victim = min(running.service.workers())
            os.kill(victim, signal.SIGKILL)
            wait_until(lambda: victim not in (now := running.service.workers()) and len(now) == 2)
        running.do("revive", "treatment")
        assert serving("status") == ["first-control", "second-treatment"]
        assert running.arms()["treatment"]["weight"] == 2.0
        assert ask(running.path, "rollback", "nobody").status == 1
        assert serving("reload") == ["second-control", "second-treatment"]
        kinds = [each["command"] for each in running.events()]
        assert kinds == ["reload", "rollback", "rollback", "weights", "kill", "revive", "reload"]
        assert list(running.events()[1]["after"]) == ["treatment"]
        assert running.service.stop() == 0
    assert "rolled back control (second-control@" in running.service.errors.read_text()


def test_a_rollback_undoes_a_reload_that_does_not_come_to_its_end(tmp_path: Path) -> None:
    folder = write_tiny_bundle(tmp_path / "bundle", name="first")
    options = ["--arm", f"only={folder}", "--workers", "2", "--try-reloads", "off"]
    with commanded(tmp_path, options) as running, ThreadPoolExecutor() as pool:
        before = running.service.workers()
        write_tiny_bundle(folder, name="second", seed=3)
        reload = pool.submit(ask, running.path, "reload")
        wait_until(lambda: bool(running.service.workers() - before))
        os.kill(max(running.service.workers() - before), signal.SIGSTOP)  # it never serves
        status = running.do("rollback")["status"]
        assert (status["last_reload"]["command"], status["last_reload"]["outcome"]) == ("rollback", "ok")
        assert reload.result().status == 1
        assert "a rollback has undone the reload" in reload.result().errors
        wait_until(lambda: running.service.workers() == before)
        assert running.arms()["only"]["bundle"].startswith("first@")
        assert running.service.post(body_of(1)).json()["bundle"].startswith("first@")
        assert [(each["command"], each.get("outcome", "ok")) for each in running.events()] == [
            ("reload", "undone"),
            ("rollback", "ok"),
        ]
        counted = running.service.metrics()
        outcomes = [counted[f'bidlight_reloads_total{{outcome="{each}"}}'] for each in ("refused", "undone")]
        assert outcomes == [0, 1]
        assert running.service.stop() == 0
    assert "the reload is undone" in running.service.errors.read_text()


def test_rollbacks_that_come_together_are_all_carried_out(tmp_path: Path) -> None:
    folders = {name: write_tiny_bundle(tmp_path / name, name=f"first-{name}") for name in ("a", "b", "c")}
    options = ["--workers", "2", "--try-reloads", "off"]
    with commanded(tmp_path, [*arms_of(folders, "1:1:1"), *options]) as running:
        for number, (name, folder) in enumerate(folders.items()):
            write_tiny_bundle(folder, name=f"second-{name}", seed=5 + number)
        running.do("reload")
        with ThreadPoolExecutor() as pool:
            outcomes = [*pool.map(lambda name: ask(running.path, "rollback", name), folders)]
        assert [(outcome.status, outcome.errors) for outcome in outcomes] == [(0, "")] * 3
        bundles = {name: arm["bundle"].partition("@")[0] for name, arm in running.arms().items()}
        assert bundles == {name: f"first-{name}" for name in folders}
        assert [each.get("outcome", "ok") for each in running.events()] == ["ok"] * 4
        assert running.service.stop() == 0


@pytest.mark.parametrize("workers", ROLLOUT_WORKERS)
def test_no_request_fails_while_bundles_are_rolled_out_and_back(tmp_path: Path, workers: str) -> None:
    folder = write_tiny_bundle(tmp_path / "bundle", name="zero", seed=1)
    options = ["--arm", f"only={folder}", "--workers", workers, "--try-reloads", "off"]
    with commanded(tmp_path, options) as running:
        with kept_sending(running.service, 3) as answers:
            for number in range(ROLLOUTS):
                write_tiny_bundle(folder, name=f"new-{number}", seed=number + 7)
                running.do("reload")
                running.do("rollback")
            # Until then a worker that stops answers its clients.
            wait_until(lambda: answers[-1][1].startswith("zero@"))
        assert running.service.stop() == 0
    assert {status for status, _ in answers} == {200}
    names = {bundle.partition("@")[0] for _, bundle in answers}
    assert names <= {"zero", *(f"new-{number}" for number in range(ROLLOUTS))}
