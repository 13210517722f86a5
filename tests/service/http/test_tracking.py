"""Which answers have tokens: what a request says wins over the setting, by every way that it is read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from service.bundle.native import IS_BUILT
from service.settings import Settings
from tests.running import JSON, MSGPACK, RunningApp

RunApp = Callable[..., RunningApp]
ADS = {"id": ["x", "y"], "features": {"ad": ["a1", "a2"]}}


@pytest.fixture
def keys(tmp_path: Path) -> str:
    (file := tmp_path / "keys").write_text(f"0 {'5e' * 16}\n", encoding="ascii")
    return str(file)


@pytest.mark.parametrize(
    "native", ["off", pytest.param("on", marks=pytest.mark.skipif(not IS_BUILT, reason="no core"))]
)
@pytest.mark.parametrize("predict_through", ["parser", "asgi"])
def test_a_request_that_says_nothing_is_tracked_as_the_service_is_set(
    run_app: RunApp, keys: str, native: str, predict_through: str
) -> None:
    for setting in ("asked", "all"):
        app = run_app(feedback_keys=keys, tracking=setting, native=native, predict_through=predict_through)
        for said in (None, True, False):
            request: dict[str, Any] = {"candidates": ADS} | ({} if said is None else {"tracking": said})
            # With a context of odd shape the native core leaves the request to Python.
            for context in ({}, {"odd": {"a": 1}}):
                bodies = [
                    (msgspec.json.encode(request | {"context": context}), JSON, msgspec.json.decode),
                    (msgspec.msgpack.encode(request | {"context": context}), MSGPACK, msgspec.msgpack.decode),
                ]
                for body, headers, decode in bodies:
                    answer = app.post(body, headers)
                    assert answer.status_code == 200, answer.text
                    expected = setting == "all" if said is None else said
                    assert ("token" in decode(answer.content)["results"]) == expected


def test_what_tracking_may_be_is_true_or_false(run_app: RunApp, keys: str) -> None:
    app = run_app(feedback_keys=keys, tracking="all")
    for wrong in (b"null", b"1", b'"all"'):
        body = b'{"candidates": [{}], "tracking": %b}' % wrong
        assert app.post(body).status_code == 422


@pytest.mark.parametrize("setting", [{"tracking": "all"}, {"example_log": "somewhere"}])
def test_without_keys_there_is_nothing_to_track(setting: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"'feedback_keys' must be given with (tracking all|example_log)"):
        Settings(**setting)
