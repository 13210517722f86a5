"""Live calibrations in answers, tokens and /arms, as a process serves what is decided."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import msgspec
import numpy as np
import pytest

from service.arms.live import LiveArms
from service.calibration.fit import Correction
from service.calibration.memory import LiveState
from service.errors import BadConfiguration
from service.feedback.keys import read_keys
from service.feedback.memory import EventMemory, event_memory
from service.feedback.tokens import ReadTokens, TokenReader, now_ms
from service.settings import Settings
from service.wire import JSON, MSGPACK, Codec
from tests.running import RunningApp
from tests.service.arms.test_kept import roll_back
from tests.tiny_bundle import tiny_rows, write_tiny_bundle

RunApp = Callable[..., RunningApp]
REQUEST = {
    "context": tiny_rows(1)[0]["context"],
    "candidates": {"features": {"ad": [f"a{number}" for number in range(8)]}},
    "tracking": True,
}
STATE = LiveState(9, 0.25, 0.9, 321.0, 0.8, 1.01, dispersion=1.5)


@pytest.fixture
def keys(tmp_path: Path) -> str:
    (file := tmp_path / "keys").write_text(f"0 {'5e' * 16}\n", encoding="ascii")
    return str(file)


def revision_named(app: RunningApp, codec: Codec, **more: Any) -> int | None:
    """What the answer says of its live calibration."""
    body = codec.encode(REQUEST | more)
    answer = app.post(body, {"content-type": codec.media_type.decode()})
    assert answer.status_code == 200
    found = msgspec.json.decode(answer.content) if codec is JSON else msgspec.msgpack.decode(answer.content)
    assert found.get("calibration_revision", 1) > 0
    revision: int | None = found.get("calibration_revision")
    return revision


def pctrs_and_tokens(app: RunningApp, **more: Any) -> tuple[list[float], list[str]]:
    answer = app.post(json.dumps(REQUEST | more).encode())
    assert answer.status_code == 200, answer.text
    results = answer.json()["results"]
    return results["pctr"], results["token"]


def read(app: RunningApp, keys: str, tokens: list[str]) -> ReadTokens:
    (arm, *_) = app.app.arms
    return TokenReader(read_keys(keys)).read(tokens, {arm.source.number}, now_ms(), 60_000)


def decide(app: RunningApp, state: LiveState) -> None:
    """Let this be what the deciding process has written for the first arm."""
    live = cast(LiveArms, app.app._live)
    memory = live._revisions._memory
    place = memory.place(app.app.arms[0].source.number)
    assert place is not None
    memory.write(place, state)
    app.app._publish()


@pytest.mark.parametrize("max_batch_rows", [1, 3, 1024])
@pytest.mark.parametrize("odd", [{}, {"context": {"a": 1, "b": {}}}], ids=["plain", "odd"])
def test_a_request_in_parts_has_one_revision(
    run_app: RunApp, keys: str, max_batch_rows: int, odd: dict[str, Any]
) -> None:
    app = run_app(feedback_keys=keys, live_calibration="on", max_batch_rows=max_batch_rows)
    own, _ = pctrs_and_tokens(app, **odd)
    decide(app, STATE)
    after, tokens = pctrs_and_tokens(app, **odd)
    corrected = Correction(STATE.intercept, STATE.slope).pctrs(np.array(own), 1e-6, 1 - 1e-6)
    assert after == corrected.tolist()
    found = read(app, keys, tokens)
    assert set(found.revisions.tolist()) == {9}
    assert found.pctrs == pytest.approx(own, rel=1e-6)


@pytest.mark.parametrize("odd", [{}, {"context": {"a": 1, "b": {}}}], ids=["plain", "odd"])
@pytest.mark.parametrize("mode", ["observe", "on"])
def test_what_is_decided_is_served_and_tokens_have_the_pctrs_of_the_bundle(
    run_app: RunApp, keys: str, mode: str, odd: dict[str, Any]
) -> None:
    off = run_app(feedback_keys=keys)
    own, _ = pctrs_and_tokens(off, **odd)
    assert off.get("/arms").json()["arms"][0]["live_calibration"] is None
    app = run_app(feedback_keys=keys, live_calibration=mode)
    before, tokens = pctrs_and_tokens(app, **odd)
    assert before == own
    assert set(read(app, keys, tokens).revisions.tolist()) == {0}
    codecs = JSON, MSGPACK
    assert [revision_named(app, codec, **odd) for codec in codecs] == [None, None]
    decide(app, STATE)
    assert [revision_named(app, codec, **odd) for codec in codecs] == [9 if mode == "on" else None] * 2
    after, tokens = pctrs_and_tokens(app, **odd)
    found = read(app, keys, tokens)
    assert found.pctrs == pytest.approx(own, rel=1e-6)
    corrected = Correction(STATE.intercept, STATE.slope).pctrs(np.array(own), 1e-6, 1 - 1e-6)
    if mode == "on":
        assert after == corrected.tolist()
        assert set(found.revisions.tolist()) == {9}
    else:
        assert after == own
        assert set(found.revisions.tolist()) == {0}
    assert app.get("/arms").json()["arms"][0]["live_calibration"] == {
        "mode": mode,
        "revision": 9,
        "intercept": 0.25,
        "slope": 0.9,
        "is_frozen": False,
        "clicks": 321.0,
        "dispersion": 1.5,
        "pcoc": {"bundle": 0.8, "live": 1.01},
    }
    decide(app, LiveState(10))
    assert pctrs_and_tokens(app, **odd)[0] == own
    assert [revision_named(app, codec, **odd) for codec in codecs] == [None, None]
    assert app.get("/arms").json()["arms"][0]["live_calibration"]["pcoc"]["bundle"] is None


def test_a_rollback_brings_the_correction_back_and_a_new_bundle_begins_without(
    run_app: RunApp, keys: str, tmp_path: Path
) -> None:
    folder = write_tiny_bundle(tmp_path / "bundle", name="first")
    app = run_app(arms=(f"only={folder}",), feedback_keys=keys, live_calibration="on", try_reloads="off")
    own, _ = pctrs_and_tokens(app)
    decider = cast(LiveArms, app.app._live).decider
    assert decider is not None
    (account,) = decider._ledger.accounts.values()
    account.live.correction, account.live.revision = Correction(STATE.intercept, STATE.slope), 9
    decider._publish_all()
    app.app._publish()
    corrected, tokens = pctrs_and_tokens(app)
    assert corrected != own
    write_tiny_bundle(folder, name="second", seed=1)
    app.runner.run(app.app.served.reload())
    other, of_other = pctrs_and_tokens(app)
    found = read(app, keys, of_other)
    assert set(found.revisions.tolist()) == {0}
    assert found.pctrs == pytest.approx(other, rel=1e-6)
    events = {"events": [{"token": token, "type": "impression"} for token in tokens]}
    answer = app.runner.run(app.client.post("/feedback", json=events))
    assert answer.json()["counted"] == len(tokens)  # also while another bundle serves
    roll_back(app)
    back, tokens = pctrs_and_tokens(app)
    assert back == corrected
    assert set(read(app, keys, tokens).revisions.tolist()) == {9}


@pytest.mark.parametrize("codec", [JSON, MSGPACK], ids=["JSON", "MessagePack"])
@pytest.mark.parametrize("odd", [{}, {"context": {"a": 1, "b": {}}}], ids=["plain", "odd"])
def test_an_answer_and_its_tokens_say_that_a_request_is_explored(
    run_app: RunApp, keys: str, codec: Codec, odd: dict[str, Any]
) -> None:
    def explored(app: RunningApp, **more: Any) -> bool:
        """What the answer says, and all of its tokens alike."""
        answer = app.post(codec.encode(REQUEST | odd | more), {"content-type": codec.media_type.decode()})
        assert answer.status_code == 200
        decode: Any = msgspec.json.decode if codec is JSON else msgspec.msgpack.decode
        found = decode(answer.content)
        if "token" in found["results"]:
            said = read(app, keys, found["results"]["token"])
            assert not said.reasons.any()
            assert set(said.is_explored.tolist()) == {"explore" in found}
        assert found.get("explore", True) is True
        return "explore" in found

    assert not explored(run_app(feedback_keys=keys))
    app = run_app(feedback_keys=keys, live_calibration="on", explore_share=1.0)
    assert explored(app)
    assert not explored(app, tracking=False)  # nobody could report its events
    decide(app, STATE)
    assert explored(app)
    half = run_app(feedback_keys=keys, explore_share=0.5)
    assert {explored(half) for _ in range(64)} == {False, True}


def test_exploring_needs_keys_and_what_is_learned_from_alone_must_come() -> None:
    with pytest.raises(ValueError, match="'feedback_keys' must be given with explore_share"):
        Settings(explore_share=0.01)
    with pytest.raises(ValueError, match="'explore_share' must be above 0 with live_learn_from explored"):
        Settings(live_learn_from="explored")


def test_memory_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch, keys: str) -> None:
    settings = Settings(arms=("a=b",) * 100_000, feedback_keys=keys, live_calibration="on")
    with pytest.raises(BadConfiguration, match="'live_calibration' must have memory for its counts"):
        event_memory(settings, 1 << 30)
    assert isinstance(event_memory(settings.model_copy(update={"live_calibration": "off"})), EventMemory)


def test_live_calibration_needs_feedback() -> None:
    with pytest.raises(ValueError, match="'feedback_keys' must be given with live_calibration on"):
        Settings(live_calibration="on")
