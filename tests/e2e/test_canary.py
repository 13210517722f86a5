"""A canary in a real service under traffic: one as good earns it all, one that is worse is taken back."""

from __future__ import annotations

import os
import random
import shutil
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.control.__main__ import main as control
from service.control.client import ControlClient
from service.control.protocol import (
    Answer,
    CanaryStatus,
    Command,
    EndShadow,
    Kill,
    PromoteCanary,
    Reload,
    Revive,
    ServiceStatus,
    Shadow,
    StartCanary,
    Status,
    StopCanary,
    Weights,
)
from service.rollout.plan import Plan
from tests.e2e.commanded import Commanded, ask, commanded
from tests.e2e.raw_http import CONTEXT, wait_until
from tests.running import JSON, RunningService

CANDIDATES = 20
QUICK = ("--steps", "30,60,100", "--hold-seconds", "1", "--requests", "40", "--known-clicks", "50")
CLICKS_KNOWN = ("--live-calibration", "observe", "--click-window-seconds", "1")


class Traffic:
    """Requests in a loop until it ends, whose ads are shown and clicked; what came of them by arm."""

    def __init__(self, service: RunningService, click_rate: Callable[[str, float], float] | None) -> None:
        self._service, self._click_rate = service, click_rate
        self.answered: Counter[str] = Counter()
        self.failed: list[str] = []
        self.is_over = False
        self._threads = [threading.Thread(target=self._ask, args=(seed,)) for seed in range(2)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self.is_over = True
        for thread in self._threads:
            thread.join()

    def _ask(self, seed: int) -> None:
        chosen = random.Random(seed)
        with self._service.client(headers=JSON) as client:
            while not self.is_over:
                ads = [f"a{chosen.randrange(30)}" for _ in range(CANDIDATES)]
                body = {
                    "context": CONTEXT,
                    "candidates": {"features": {"ad": ads}},
                    "tracking": self._click_rate is not None,
                }
                key = {"x-split-key": str(chosen.random())}
                try:
                    answer = client.post("/predict", json=body, headers=key)
                except httpx.TransportError:  # of a worker that was killed
                    continue
                if answer.status_code != 200:
                    self.failed.append(answer.text)
                    continue
                found = answer.json()
                self.answered[found["arm"]] += 1
                if self._click_rate is not None:
                    with suppress(httpx.TransportError):
                        self._report(client, found, chosen, self._click_rate)

    def _report(self, client: Any, found: Mapping[str, Any], chosen: random.Random, rate: Any) -> None:
        results = found["results"]
        events = [{"token": token, "type": "impression"} for token in results["token"]]
        events += [
            {"token": token, "type": "click"}
            for token, pctr in zip(results["token"], results["pctr"], strict=True)
            if chosen.random() < rate(found["arm"], pctr)
        ]
        client.post("/feedback", json={"events": events})


@contextmanager
def traffic(
    service: RunningService, click_rate: Callable[[str, float], float] | None = None
) -> Iterator[Traffic]:
    """Traffic while this lasts; ads are clicked at this rate, by arm and pCTR."""
    running = Traffic(service, click_rate)
    running.start()
    try:
        yield running
    finally:
        running.stop()


def arms_of(control: Path, new: Path, workers: str) -> list[str]:
    arms = ("--arm", f"control={control}:90", "--arm", f"new={new}:0", "--arm", f"other={control}:10")
    return [*arms, "--workers", workers]


def tell(running: Commanded, command: Command) -> Answer:
    """The answer to a command, without a process of its own."""
    with ControlClient(str(running.path), 30.0) as client:
        return client.ask(command)


def status_of(running: Commanded) -> ServiceStatus:
    found = tell(running, Status()).status
    assert found is not None
    return found


def canary_of(running: Commanded) -> CanaryStatus:
    found = status_of(running).canary
    assert found is not None
    return found


def is_over(running: Commanded) -> bool:
    return canary_of(running).state == "over"


def weights_of(running: Commanded) -> dict[str, float]:
    return {arm.name: arm.weight for arm in status_of(running).arms}


def canary_events(running: Commanded) -> list[dict[str, Any]]:
    return [event for event in running.events() if event["command"] == "canary"]


def test_an_arm_that_is_as_good_earns_all_traffic_step_by_step(
    bundles: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "keys").write_text(f"0 {'5e' * 16}\n", encoding="ascii")
    same = shutil.copytree(bundles["control"], tmp_path / "same")
    arguments = [*arms_of(bundles["control"], same, "2"), "--feedback-keys", str(tmp_path / "keys")]
    with commanded(tmp_path, [*arguments, *CLICKS_KNOWN]) as running:
        service = running.service
        with traffic(service, lambda arm, pctr: pctr) as asked:
            started = running.do("canary", "new", *QUICK)
            assert started["status"]["canary"]["state"] == "under_way"
            assert started["status"]["arms"][1]["share"] == pytest.approx(0.27)
            wait_until(lambda: service.metrics().get('bidlight_canary_step{arm="new"}') == 2)
            assert 'bidlight_canary_gate{arm="new",gate="errors"}' in service.metrics()
            os.kill(min(service.workers()), signal.SIGKILL)
            wait_until(lambda: is_over(running))
        assert asked.failed == []
        assert min(asked.answered[arm] for arm in ("control", "new", "other")) > 20
        found = canary_of(running)
        assert (found.verdict, found.share, found.gate) == ("finished", 1.0, None)
        assert weights_of(running) == {"control": 0.0, "new": 90.0, "other": 10.0}
        kept = canary_events(running)
        assert [event["outcome"] for event in kept] == ["started", "raised", "finished"]
        assert [event["after"]["new"]["weight"] for event in kept] == pytest.approx([27.0, 54.0, 90.0])
        assert [event.get("user") for event in kept] == [os.getuid(), None, None]
        assert not [name for name in service.metrics() if name.startswith("bidlight_canary_share{")]
        assert service.stop() == 0


def test_an_arm_with_other_pctrs_is_taken_back_within_seconds(
    bundles: dict[str, Path], tmp_path: Path
) -> None:
    with commanded(tmp_path, arms_of(bundles["control"], bundles["treatment"], "1")) as running:
        with traffic(running.service):
            outcome = ask(running.path, "canary", "new", *QUICK[:2], "--hold-seconds", "600")
            assert outcome.status == 0
            assert "clicks need --feedback-keys" in outcome.errors
            wait_until(lambda: is_over(running))
        found = canary_of(running)
        assert (found.verdict, found.gate, found.share) == ("taken_back", "pctr", 0.0)
        assert weights_of(running) == {"control": 90.0, "new": 0.0, "other": 10.0}
        assert canary_events(running)[-1]["outcome"] == "taken_back: pctr"
        name = 'bidlight_canary_verdicts_total{arm="new",gate="pctr",verdict="taken_back"}'
        assert running.service.metrics()[name] == 1
        assert "canary new is taken_back" in running.service.errors.read_text()
        assert ask(running.path, "canary", "status").output.startswith(
            "new against control: taken back by pctr"
        )
        with traffic(running.service):  # without feedback no step waits for clicks
            plan = Plan(steps=(50.0, 100.0), hold_seconds=0.5, requests=20)
            assert tell(running, StartCanary("other", plan=plan)).error is None
            wait_until(lambda: is_over(running))
        assert (canary_of(running).verdict, weights_of(running)["other"]) == ("finished", 100.0)


def test_clicks_that_do_not_come_take_an_arm_back(bundles: dict[str, Path], tmp_path: Path) -> None:
    """Its pCTRs are those of control, and half of the clicks that they promise are not there."""
    (tmp_path / "keys").write_text(f"0 {'5e' * 16}\n", encoding="ascii")
    arguments = [*arms_of(bundles["control"], bundles["control"], "2"), *CLICKS_KNOWN]
    with commanded(tmp_path, [*arguments, "--feedback-keys", str(tmp_path / "keys")]) as running:
        with traffic(running.service, lambda arm, pctr: pctr / 2.0 if arm == "new" else pctr):
            running.do("canary", "new", "--steps", "50", "--hold-seconds", "600")
            wait_until(lambda: is_over(running), seconds=120.0)
        found = canary_of(running)
        assert (found.verdict, found.share) == ("taken_back", 0.0)
        assert found.gate in ("pcoc", "clicks")


def test_commands_end_a_canary(bundles: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(bundles["control"], tmp_path / "new")
    with commanded(tmp_path, arms_of(bundles["control"], folder, "1")) as running:

        def begin() -> None:
            assert tell(running, StartCanary("new", plan=Plan(steps=(10.0,)))).error is None
            assert weights_of(running)["new"] == pytest.approx(9.0)

        def ends(verdict: str, new: float, command: Command) -> None:
            begin()
            answer = tell(running, command)
            found = status_of(running)
            assert answer.done is not None
            assert answer.done.revision == found.revision
            assert found.canary is not None
            assert (found.canary.state, found.canary.verdict) == ("over", verdict)
            assert weights_of(running) == pytest.approx({"control": 90.0 - new, "new": new, "other": 10.0})
            for name in ("control", "new"):
                tell(running, Revive(name))
                tell(running, EndShadow(name))
            tell(running, Weights({"control": 90.0, "new": 0.0}))

        assert ask(running.path, "canary", "status").output.startswith("no canary")
        ends("taken_back", 0.0, StopCanary())
        ends("finished", 90.0, PromoteCanary())
        ends("ended", 30.0, Weights({"new": 30.0, "control": 60.0}))
        ends("ended", 9.0, Kill("control"))
        ends("taken_back", 0.0, Kill("new"))
        ends("taken_back", 0.0, Shadow("new", "control", 0.5))
        tell(running, Shadow("new", "control", 0.5))
        for shadow in (StartCanary("new"), StartCanary("other", of="new")):
            refused = tell(running, shadow).error
            assert refused is not None
            assert "must not be a shadow" in refused.message
        tell(running, EndShadow("new"))
        tell(running, Kill("new"))
        for reason, command in (
            ("must not be killed", StartCanary("new")),
            ("must be one of", StartCanary("nobody")),
            ("must be another arm", StartCanary("control")),
            ("must be under way", StopCanary()),
            ("must be percentages", StartCanary("other", plan=Plan(steps=(5.0, 1.0)))),
            ("must begin below 100", StartCanary("other", plan=Plan(steps=(100.0,)))),
        ):
            refused = tell(running, command).error
            assert refused is not None
            assert reason in refused.message
        tell(running, Revive("new"))
        begin()
        refused = tell(running, StartCanary("other")).error
        assert refused is not None
        assert "must be the only one" in refused.message
        tell(running, Kill("other"))
        tell(running, Weights({"other": 20.0}))
        assert not is_over(running)
        shutil.rmtree(folder)
        shutil.copytree(bundles["treatment"], folder)
        tell(running, Reload())
        wait_until(lambda: is_over(running))
        assert "was replaced" in canary_of(running).reason
        assert weights_of(running) == {"control": 90.0, "new": 0.0, "other": 20.0}


@pytest.mark.parametrize(
    ("reason", "command"),
    [
        ("must be percentages", ["other", "--steps", "5,1"]),
        ("must be possible", ["other", "--alpha", "7"]),
        ("without options", ["stop", "--alpha", "0.1"]),
    ],
)
def test_options_that_no_canary_can_have_are_refused_in_one_line(
    capsys: pytest.CaptureFixture[str], reason: str, command: list[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        control(["canary", *command, "--control-socket", "/nowhere"])
    assert ended.value.code == 2
    errors = capsys.readouterr().err
    assert reason in errors
    assert errors.count("\n") == 1
