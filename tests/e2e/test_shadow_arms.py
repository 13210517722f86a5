"""Shadow arms of a real service: by command and from the start, with two workers, and under overload."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path
from typing import Any

from service.control.client import ControlClient
from service.control.protocol import Shadow
from tests.e2e.commanded import Commanded, ask, commanded
from tests.e2e.raw_http import body_of, flood, message, wait_until
from tests.running import JSON, RunningService, running_service

SHADOW = "shadow", "candidate", "--of", "control", "--share", "1"
OFF = "shadow", "candidate", "off"
KEYS = [f"user-{number}" for number in range(20)]


def arms_of(bundles: dict[str, Path]) -> list[str]:
    return ["--arm", f"control={bundles['control']}", "--arm", f"candidate={bundles['treatment']}:1"]


def total(service: RunningService, name: str, **labels: str) -> float:
    given = {"arm": "control", "shadow": "candidate", **labels}
    text = ",".join(f'{key}="{given[key]}"' for key in sorted(given))
    return service.metrics().get(f"bidlight_shadow_{name}{{{text}}}", 0.0)


def dropped(service: RunningService) -> float:
    counted = service.metrics().items()
    return sum(number for name, number in counted if name.startswith("bidlight_shadow_dropped_total"))


def answers(service: RunningService, **others: Any) -> list[bytes]:
    """The bodies of answers, those of each key over a connection of its own, so of any worker."""
    found = []
    for number, key in enumerate(KEYS):
        body = {**json.loads(body_of(1 + number % 5)), "user_id": key, **others}
        with service.client(headers=JSON) as client:
            answer = client.post("/predict", json=body)
        assert (answer.status_code, answer.headers["x-arm"]) == (200, "control")
        found.append(answer.content)
    return found


def test_all_workers_score_for_a_shadow_and_answer_as_without(
    bundles: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "keys").write_text(f"0 {'5e' * 16}\n")
    options = ["--workers", "2", "--feedback-keys", str(tmp_path / "keys")]
    with commanded(tmp_path, [*arms_of(bundles), *options]) as running:
        service = running.service
        begun = ask(running.path, *SHADOW)
        assert begun.status == 0
        assert "candidate has weight 0 now (before: 1): other arms get its keys" in begun.errors
        assert "and answers requests that name it; raise it: weights" in ask(running.path, *OFF).errors
        without = answers(service)
        running.do(*SHADOW)
        victim = min(service.workers())
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: victim not in (now := service.workers()) and len(now) == 2)
        wait_until(service.accepts)
        assert answers(service) == without
        wait_until(lambda: total(service, "requests_total") + dropped(service) == len(KEYS))
        assert total(service, "candidates_total") > 0
        results = [each for one in answers(service, tracking=True) for each in json.loads(one)["results"]]
        wait_until(lambda: total(service, "requests_total") + dropped(service) == 2 * len(KEYS))
        events = [
            {"token": each["token"], "type": kind} for each in results for kind in ("click", "impression")
        ]
        with service.client(headers=JSON) as client:
            assert client.post("/feedback", json={"events": events}).json()["counted"] == len(events)
        kept = total(service, "tokens_total", outcome="kept")
        assert kept > 0
        for kind in ("impression", "click"):
            wait_until(lambda: total(service, "events_total", type=kind) == kept)  # noqa: B023
        _assert_it_is_shown_and_kept(running)
        assert ask(running.path, *OFF).status == 0
        before = total(service, "requests_total")
        assert answers(service) == without
        assert total(service, "requests_total") == before
        assert service.stop() == 0


def _assert_it_is_shown_and_kept(running: Commanded) -> None:
    arm = running.arms()["candidate"]
    assert (arm["shadow"], arm["weight"], arm["by"]) == ({"of": "control", "share": 1.0}, 0.0, "shadow")
    assert re.search(r"candidate +0 +0.0% +shadow of control, 1 ", ask(running.path, "status").output)
    with running.service.client() as client:
        described = {each["name"]: each["shadow"] for each in client.get("/arms").json()["arms"]}
        shown = {each["name"]: each["shadow"] for each in client.get("/console.json").json()["arms"]}
    assert described == {"control": None, "candidate": {"of": "control", "share": 1.0}}
    assert shown["candidate"]["requests"] > 0
    assert shown["candidate"]["feedback"]["clicks"] > 0
    events = running.events()
    assert [event["command"] for event in events] == ["shadow", "shadow off", "shadow"]
    assert events[0]["after"] == {
        "candidate": {"weight": 0.0, "is_killed": False, "shadow": {"of": "control", "share": 1.0}}
    }
    for command, reason in {
        Shadow("control", "candidate", 1.0): "must be another arm than the control arm",
        Shadow("candidate", "candidate", 1.0): "which is the same",
        Shadow("candidate", "nobody", 1.0): "got 'nobody'",
    }.items():
        with ControlClient(str(running.path), 20.0) as asking:
            error = asking.ask(command).error
        assert error is not None
        assert reason in error.message
    refused = ask(running.path, "weights", "candidate=1")
    assert (refused.status, refused.output) == (1, "")
    assert "'weight' of arm candidate must be 0 as long as it is a shadow" in refused.errors
    assert running.events() == events


def test_under_overload_the_shadow_is_shed_first(bundles: dict[str, Path], tmp_path: Path) -> None:
    """More clients than can be served: all are answered or refused, and the shadow gets what time is left."""
    rounds = 3
    options = ["--shadow", "candidate=control:1", "--max-queue-ms", "10"]
    with running_service(tmp_path, [*arms_of(bundles), *options]) as service:
        assert "arm candidate: a shadow of control, " in service.output.read_text()

        def told(status: int, _: dict[str, str], answer: Any) -> int:
            assert status == 429 or answer["arm"] == "control"
            return status

        connections = [service.connect() for _ in range(120)]
        found = flood(connections, message(body_of(300)), rounds, told)
        for connection in connections:
            connection.close()
        assert found.total() == len(connections) * rounds
        assert found.keys() <= {200, 429}
        wait_until(lambda: total(service, "requests_total") + dropped(service) == found[200])
        assert total(service, "dropped_total", reason="busy") > 0
        assert service.metrics()["bidlight_shadow_waiting_requests"] == 0.0
        before = total(service, "requests_total")
        # After a long slice it rests longer than a copy waits.
        wait_until(lambda: service.post(body_of(2)).is_success and total(service, "requests_total") > before)
        assert service.errors.read_text() == ""
