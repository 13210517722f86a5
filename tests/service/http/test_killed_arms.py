"""What clients get when arms are killed: the control arm's answers, and without it a prior or no bid."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from service.arms.loading import read_arms
from service.arms.steering import Change
from service.errors import BadConfiguration
from service.feedback.tokens import TOKEN_CHARACTERS
from service.http.openapi import merge_bidding
from service.settings import Settings
from tests.running import JSON, MSGPACK, RunningApp
from tests.service.http.test_predict_endpoint import ROWS, columns_of, request_of
from tests.tiny_bundle import write_tiny_bundle
from tests.wire import Wire

RunApp = Callable[..., RunningApp]
# That of the tiny bundle's calibration: 200 clicks, and of the other 800 rows a share of 0.8 was kept.
PRIOR = 1 / 6


@pytest.fixture
def two_arms(bundles: dict[str, Path]) -> tuple[str, str]:
    return f"control={bundles['alpha']}:3", f"treatment={bundles['beta']}:1"


def steer(app: RunningApp, *killed: str) -> None:
    """Kill these arms and no other, as a command does."""
    memory = app.app.served.steering
    steering = memory.read()[1]
    for name in steering.weights:
        steering = steering.with_killed(name, Change(2.0, "kill", 0), is_killed=name in killed)
    memory.write(steering)
    app.app.served.follow()


def answered_by(app: RunningApp, arm: str) -> tuple[str, bytes]:
    """Which arm answers a request that pins one, and how."""
    answer = app.post(request_of(ROWS[:3]), {"x-arm": arm})
    assert answer.status_code == 200
    return answer.headers["x-arm"], answer.content


def test_a_killed_arm_is_answered_for_with_the_bytes_of_the_control_arm(
    run_app: RunApp, two_arms: tuple[str, str]
) -> None:
    app = run_app(arms=two_arms)
    control, treatment = answered_by(app, "control"), answered_by(app, "treatment")
    assert (control[0], treatment[0]) == ("control", "treatment")
    steer(app, "treatment")
    assert answered_by(app, "control") == answered_by(app, "treatment") == control
    steer(app)
    assert (answered_by(app, "control"), answered_by(app, "treatment")) == (control, treatment)
    assert app.post(request_of(ROWS[:1]), {"x-arm": "none"}).status_code == 404


def test_another_arm_can_be_the_control_arm(run_app: RunApp, two_arms: tuple[str, str]) -> None:
    app = run_app(arms=two_arms, control_arm="treatment")
    before = answered_by(app, "treatment")
    steer(app, "control")
    assert answered_by(app, "control") == before
    assert app.get("/arms").json()["control_arm"] == "treatment"


@pytest.mark.parametrize("as_columns", [False, True])
@pytest.mark.parametrize("headers", [JSON, MSGPACK])
@pytest.mark.parametrize(("when_killed", "pctr"), [("no-bid", 0.0), ("prior", PRIOR)])
@pytest.mark.parametrize("path", ["asgi", "parser"])
def test_without_a_control_arm_every_candidate_has_the_prior_or_no_bid(
    run_app: RunApp,
    two_arms: tuple[str, str],
    when_killed: str,
    pctr: float,
    headers: dict[str, str],
    as_columns: bool,
    path: str,
) -> None:
    app = run_app(arms=two_arms, when_killed=when_killed)
    request = request_of(ROWS[:3])
    request["candidates"][1].update(value_per_click=None)
    request["candidates"][2].update(bid_floor=1.0)
    request = columns_of(request) if as_columns else request
    codec: Any = msgspec.json if headers is JSON else msgspec.msgpack
    steer(app, "control", "treatment")
    body = codec.encode(request)
    if path == "asgi":
        answer = app.post(body, {**headers, "x-arm": "treatment"})
        status, found, content = answer.status_code, dict(answer.headers), answer.content
    else:
        status, found, content = app.runner.run(_through_a_socket(app, body, headers))
    assert status == 200
    answered = codec.decode(content)
    results = answered["results"]
    columns = results if as_columns else {name: [row[name] for row in results] for name in results[0]}
    assert columns["id"] == ["ad-0", "ad-1", "ad-2"]
    assert columns["pctr"] == pytest.approx([pctr] * 3)
    bid = round(PRIOR * 1.25, 6) if pctr else None
    assert columns["bid"] == [bid, None, None]
    assert list(answered) == ["id", "arm", "bundle", "quality", "results"]
    assert (answered["id"], answered["arm"], answered["quality"]) == ("req-1", "control", when_killed)
    assert (found["x-arm"], found["x-bundle"]) == ("control", answered["bundle"])


async def _through_a_socket(
    app: RunningApp, body: bytes, headers: dict[str, str]
) -> tuple[int, dict[str, str], bytes]:
    """The answer to a request that goes straight from the HTTP parser."""
    async with Wire(app.app) as wire:
        lines = ["POST /predict HTTP/1.1", "host: test", "x-arm: treatment", f"content-length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        await wire.send("\r\n".join([*lines, "", ""]).encode() + body)
        head = (await wire.reader.readuntil(b"\r\n\r\n")).decode().splitlines()
        found = dict(line.split(": ", 1) for line in head[1:] if line)
        content = await wire.reader.readexactly(int(found["content-length"]))
        return int(head[0].split()[1]), found, content


def test_a_control_arm_alone_can_be_killed_and_the_others_go_on(
    run_app: RunApp, two_arms: tuple[str, str]
) -> None:
    app = run_app(arms=two_arms)
    treatment = answered_by(app, "treatment")
    steer(app, "control")
    assert answered_by(app, "treatment") == treatment
    name, content = answered_by(app, "control")
    assert (name, msgspec.json.decode(content)["quality"]) == ("control", "no-bid")


def test_metrics_tell_weights_kills_and_what_answers_rest_on(
    run_app: RunApp, two_arms: tuple[str, str]
) -> None:
    app = run_app(arms=two_arms, when_killed="prior")
    for killed in ((), ("treatment",), ("control", "treatment")):
        steer(app, *killed)
        for _ in range(2):
            answered_by(app, "treatment")
    found = app.metrics()
    counted = {name: value for name, value in found.items() if "bidlight_answers_total" in name and value}
    assert counted == {
        'bidlight_answers_total{arm="treatment",quality="full"}': 2.0,
        'bidlight_answers_total{arm="control",quality="full"}': 2.0,
        'bidlight_answers_total{arm="control",quality="prior"}': 2.0,
    }
    assert found['bidlight_requests_total{arm="control",outcome="ok"}'] == 4.0
    assert found['bidlight_arm_killed{arm="treatment"}'] == 1.0
    assert found['bidlight_arm_weight{arm="treatment"}'] == 1.0
    assert found['bidlight_candidates_total{arm="control",outcome="bid"}'] == 12.0
    steer(app)
    assert app.metrics()['bidlight_arm_killed{arm="treatment"}'] == 0.0


def test_what_is_wrong_with_a_request_is_refused_as_ever(run_app: RunApp, two_arms: tuple[str, str]) -> None:
    app = run_app(arms=two_arms)
    steer(app, "control", "treatment")
    assert app.post(b"{").status_code == 400
    assert app.post({"candidates": []}).status_code == 422
    assert app.post({"candidates": [{}], "more": 1}).status_code == 422
    refused = app.post({"candidates": [{}], "tracking": True})  # without keys
    assert (refused.status_code, refused.json()["error"]["path"]) == (422, "$.tracking")
    assert app.post(request_of(ROWS[:2])).status_code == 200


@pytest.mark.parametrize("native", ["on", "off"])
@pytest.mark.parametrize("when_killed", ["no-bid", "prior"])
def test_answers_that_no_model_contributed_to_have_no_tokens(
    run_app: RunApp, two_arms: tuple[str, str], tmp_path: Path, when_killed: str, native: str
) -> None:
    (tmp_path / "keys").write_text(f"0 {'5e' * 16}\n")
    app = run_app(arms=two_arms, feedback_keys=str(tmp_path / "keys"), when_killed=when_killed, native=native)
    request = {**request_of(ROWS[:2]), "tracking": True}
    steer(app, "control")
    found = app.post(request, {"x-arm": "treatment"}).json()
    assert all(len(result["token"]) == TOKEN_CHARACTERS for result in found["results"])
    found = app.post(request, {"x-arm": "control"}).json()
    assert found["quality"] == when_killed
    assert [list(result) for result in found["results"]] == [["id", "pctr", "bid"]] * 2
    columns = app.post({**columns_of(request), "tracking": True}, {"x-arm": "control"}).json()["results"]
    assert list(columns) == ["id", "pctr", "bid"]


def test_a_client_that_leaves_before_such_an_answer_harms_nobody(
    run_app: RunApp, two_arms: tuple[str, str]
) -> None:
    app = run_app(arms=two_arms)
    steer(app, "control", "treatment")

    async def leave() -> None:
        async with Wire(app.app) as wire:
            body = msgspec.json.encode(request_of(ROWS[:2]))
            lines = ["POST /predict HTTP/1.1", "content-type: application/json"]
            head = "\r\n".join([*lines, f"content-length: {len(body)}", "", ""])
            wire.protocol.data_received(head.encode() + body)
            wire.protocol.connection_lost(None)
            await asyncio.sleep(0.01)

    app.runner.run(leave())
    assert app.metrics()['bidlight_requests_total{arm="control",outcome="client_left"}'] == 1.0
    assert app.app.predict_service.admission.open_work == 0
    assert app.post(request_of(ROWS[:2])).status_code == 200


def test_the_health_of_a_killed_arm_is_nobodys_concern(run_app: RunApp, two_arms: tuple[str, str]) -> None:
    app = run_app(arms=two_arms)
    treatment = app.app.served.arms[1].predictor
    treatment.golden = msgspec.structs.replace(
        treatment.golden,
        variants={
            name: msgspec.structs.replace(outputs, logits=tuple(logit + 1.0 for logit in outputs.logits))
            for name, outputs in treatment.golden.variants.items()
        },
    )
    assert app.get("/healthz").status_code == 503
    steer(app, "treatment")
    app.app.health._checked = float("-inf")
    assert app.get("/healthz").status_code == 200
    assert app.get("/readyz").status_code == 200


def test_a_control_arm_that_there_is_not_is_refused(two_arms: tuple[str, str]) -> None:
    with pytest.raises(BadConfiguration, match="'control_arm' must be one of control, treatment"):
        read_arms(Settings(arms=two_arms, control_arm="c"))


def test_a_bundle_without_a_click_rate_is_no_prior_at_the_start_nor_at_a_reload(
    run_app: RunApp, tmp_path: Path
) -> None:
    without = write_tiny_bundle(tmp_path / "without", calibration={"fit_rows": 0, "fit_clicks": 0})
    folder = write_tiny_bundle(tmp_path / "bundle", name="first")
    arms = f"control={without}", f"other={folder}"
    with pytest.raises(BadConfiguration, match=r"arm control: .*calibration.json' must be of float32 fitted"):
        read_arms(Settings(arms=arms, when_killed="prior"))
    assert len(read_arms(Settings(arms=arms))) == 2
    app = run_app(arms=arms, when_killed="prior", control_arm="other", try_reloads="off")
    steer(app, "control", "other")
    before = app.post(request_of(ROWS[:1])).json()
    write_tiny_bundle(folder, name="second", calibration={"fit_rows": 9, "fit_clicks": 0})
    app.runner.run(app.app.served.reload())
    assert app.metrics()['bidlight_reloads_total{outcome="refused"}'] == 1.0
    assert app.post(request_of(ROWS[:1])).json() == before
    write_tiny_bundle(
        folder, name="third", calibration={"fit_rows": 10, "fit_clicks": 5, "sampling_rate": 1.0}
    )
    app.runner.run(app.app.served.reload())
    assert app.post(request_of(ROWS[:1])).json()["results"][0]["pctr"] == 0.5


def test_the_interface_describes_the_quality() -> None:
    document = merge_bidding({}, None, needs_token=False)
    described = document["components"]["schemas"]["PredictAnswer"]
    assert described["properties"]["quality"]["enum"] == ["no-bid", "prior"]
    assert "quality" not in described["required"]
