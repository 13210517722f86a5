"""Rollbacks: the bundle that an arm served before comes back, whatever its folder holds by then."""

from __future__ import annotations

import asyncio
import json
import shutil
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from service.arms.kept import KeptArms
from service.arms.reloads import ROLLBACK
from service.errors import BadConfiguration
from service.http.prediction import Prediction
from service.scoring.meter import OK
from tests.running import RunningApp
from tests.tiny_bundle import tiny_rows, write_tiny_bundle

RunApp = Callable[..., RunningApp]
BODY: dict[str, Any] = {
    "context": tiny_rows(1)[0]["context"],
    "candidates": [{"id": "a", "features": {"ad": "a1"}}],
}


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Path]:
    return {
        name: write_tiny_bundle(tmp_path / name, name="first", seed=7) for name in ("control", "treatment")
    }


def arms_of(folders: dict[str, Path]) -> tuple[str, ...]:
    return tuple(f"{name}={folder}" for name, folder in folders.items())


async def until_rolled_back(app: RunningApp, *arms: str) -> None:
    """Ask for a rollback and wait for its end."""
    served = app.app.served
    number = served.request(ROLLBACK, arms)
    while served.reloads.last is None or served.reloads.last.wanted.number < number:
        await asyncio.sleep(0.001)


def roll_back(app: RunningApp, *arms: str) -> None:
    app.runner.run(until_rolled_back(app, *arms))


def reload_with(app: RunningApp, folder: Path, name: str, seed: int) -> None:
    write_tiny_bundle(folder, name=name, seed=seed)
    app.runner.run(app.app.served.reload())


def answer_of(app: RunningApp, arm: str = "control") -> bytes:
    answer = app.post(BODY, {"x-arm": arm})
    assert answer.status_code == 200
    return answer.content


def test_what_took_over_from_itself_is_not_kept_and_one_bundle_is_kept_of_each_arm() -> None:
    kept = KeptArms[str](str, is_on=True)
    kept.replace({"a": "1", "b": "1"}, {"a": "2", "b": "1"})
    kept.replace({"a": "2", "b": "1"}, {"a": "2", "b": "1"})
    assert kept.bundles == {"a": "1"}
    assert kept.restored({"a": "2", "b": "1"}) == ["1", "1"]
    kept.replace({"a": "2", "b": "1"}, {"a": "3", "b": "2"})
    assert kept.bundles == {"a": "2", "b": "1"}
    assert kept.restored({"a": "3", "b": "2"}) == ["2", "1"]
    assert kept.restored({"a": "3", "b": "2"}, ["b"]) == ["3", "1"]
    with pytest.raises(
        BadConfiguration, match="must be one that has served another bundle since the start, a, b"
    ):
        kept.restored({"a": "3", "b": "2", "c": "1"}, ["c"])


@pytest.mark.parametrize(
    ("is_on", "message"), [(True, "nothing to go back to"), (False, "'keep_previous' is off")]
)
def test_without_a_bundle_from_before_there_is_no_way_back(is_on: bool, message: str) -> None:
    kept = KeptArms[str](str, is_on=is_on)
    kept.replace({"a": "1"}, {"a": "1" if is_on else "2"})
    with pytest.raises(BadConfiguration, match=message):
        kept.check([])


def test_the_bundle_before_comes_back_though_its_folder_has_another_and_can_be_left_again(
    run_app: RunApp, folders: dict[str, Path]
) -> None:
    app = run_app(arms=arms_of(folders), try_reloads="off")
    first = answer_of(app)
    reload_with(app, folders["control"], "second", 8)
    second = answer_of(app)
    assert json.loads(second)["bundle"].startswith("second@")
    shutil.rmtree(folders["control"])
    for expected in (first, second, first):
        roll_back(app)
        assert answer_of(app) == expected
    found = app.metrics()
    assert found['bidlight_reloads_total{outcome="ok"}'] == 4.0
    assert found['bidlight_requests_total{arm="control",outcome="ok"}'] == 5.0
    assert found['bidlight_batch_rows_sum{arm="control"}'] == 5.0  # golden rows are not counted
    infos = [
        name for name, value in found.items() if "bundle_info" in name and 'arm="control"' in name and value
    ]
    assert len(infos) == 1
    assert "first@" in infos[0]


def test_one_arm_goes_back_and_the_other_stays_and_is_counted_on(
    run_app: RunApp, folders: dict[str, Path]
) -> None:
    app = run_app(arms=arms_of(folders), try_reloads="off")
    for name, folder in folders.items():
        write_tiny_bundle(folder, name=f"second-{name}", seed=9)
    app.runner.run(app.app.served.reload())
    treatment = app.app.served.arms[1].predictor
    meter = treatment.meter

    async def roll_back_under_way() -> None:
        prediction = Prediction(app.app.predict_service, 0.0)
        prediction.read_headers({b"content-type": b"application/json", b"x-arm": b"treatment"})
        pctrs = await prediction.submit(json.dumps(BODY).encode())
        await until_rolled_back(app, "control")
        prediction.answer(pctrs)
        prediction.end(OK)

    app.runner.run(roll_back_under_way())
    assert [bundle.partition("@")[0] for bundle in app.app.served.bundles.values()] == [
        "first",
        "second-treatment",
    ]
    assert app.app.served.arms[1].predictor is treatment
    assert treatment.meter is meter
    assert app.metrics()['bidlight_requests_total{arm="treatment",outcome="ok"}'] == 1.0
    assert app.app.served.kept.bundles["control"].startswith("second-control@")


def test_a_bundle_that_came_back_is_refused_if_its_golden_rows_no_longer_hold(
    run_app: RunApp, folders: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    app = run_app(arms=arms_of(folders), try_reloads="off")
    old = app.app.served.arms[0].predictor
    reload_with(app, folders["control"], "second", 8)
    second = answer_of(app)
    old.golden = app.app.served.arms[0].predictor.golden
    roll_back(app)
    assert answer_of(app) == second
    assert app.metrics()['bidlight_reloads_total{outcome="refused"}'] == 1.0


def test_what_is_kept_no_longer_is_freed(run_app: RunApp, folders: dict[str, Path]) -> None:
    app = run_app(arms=arms_of(folders), try_reloads="off")
    first = weakref.ref(app.app.served.arms[0].predictor)
    reload_with(app, folders["control"], "second", 8)
    app.app.served.publish()
    assert first() is not None
    reload_with(app, folders["control"], "third", 9)
    app.app.served.publish()
    assert first() is None


def test_nothing_is_kept_where_that_is_off(run_app: RunApp, folders: dict[str, Path]) -> None:
    app = run_app(arms=arms_of(folders), try_reloads="off", keep_previous="off")
    first = weakref.ref(app.app.served.arms[0].predictor)
    reload_with(app, folders["control"], "second", 8)
    app.app.served.publish()
    assert first() is None
    roll_back(app)
    assert app.metrics()['bidlight_reloads_total{outcome="refused"}'] == 1.0
