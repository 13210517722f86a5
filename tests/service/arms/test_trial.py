"""Bundles are loaded within their limits, and those of a reload in a process that may die."""

from __future__ import annotations

import os
import resource
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from service.arms import loading
from service.arms import trial as trial_module
from service.arms.loading import read_arms, start_arms
from service.arms.trial import Trial
from service.errors import BadConfiguration
from service.scoring.predictor import Predictor
from service.settings import Settings
from tests.forged_bundle import load_for_ever, outgrow_memory, rewrite_json
from tests.running import RunningApp
from tests.tiny_bundle import write_tiny_bundle


@pytest.fixture
def folder(bundles: dict[str, Path], tmp_path: Path) -> Path:
    return shutil.copytree(bundles["alpha"], tmp_path / "bundle")


def settings_of(folder: Path, **settings: object) -> Settings:
    return Settings(arms=(f"only={folder}",), **settings)  # type: ignore[arg-type]


def refusal(trial: Trial) -> str:
    with pytest.raises(BadConfiguration) as refused:
        trial.wait()
    return str(refused.value)


def test_a_constant_that_outgrows_its_file_is_refused(folder: Path) -> None:
    outgrow_memory(folder)
    settings = settings_of(folder)
    before = resource.getrlimit(resource.RLIMIT_DATA)
    with pytest.raises(BadConfiguration, match="arm only: "):
        start_arms(settings, read_arms(settings))
    assert resource.getrlimit(resource.RLIMIT_DATA) == before


def test_a_batch_may_be_larger_than_usual(folder: Path) -> None:
    settings = settings_of(folder, max_batch_rows=4096)
    assert start_arms(settings, read_arms(settings))[0].predictor.variant == "float32"


def test_the_bundles_that_were_tried_are_those_that_are_read(folder: Path) -> None:
    settings = settings_of(folder)
    digests = Trial(settings).wait()
    assert [arm.bundle.digest for arm in read_arms(settings, digests)] == list(digests)
    write_tiny_bundle(folder, "newer", seed=9)
    with pytest.raises(BadConfiguration, match="another bundle than a moment ago"):
        read_arms(settings, digests)


def test_a_refusal_is_the_one_of_a_start(folder: Path) -> None:
    def misstate(golden: dict[str, dict[str, dict[str, list[float]]]]) -> None:
        golden["variants"]["float32"]["logits"][0] += 1.0

    rewrite_json(folder, "golden.json", misstate)
    settings = settings_of(folder)
    with pytest.raises(BadConfiguration, match="row 0 to give logit") as refused:
        start_arms(settings, read_arms(settings))
    assert refusal(Trial(settings)) == str(refused.value)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_how_the_process_died_is_told(folder: Path, number: signal.Signals) -> None:
    load_for_ever(folder)
    trial = Trial(settings_of(folder))
    os.kill(trial._process.pid, number)
    assert f"it ended with {number.name}" in refusal(trial)


def test_the_process_ends_by_itself_at_the_deadline(folder: Path) -> None:
    load_for_ever(folder)
    assert "must be loaded within 1 s" in refusal(Trial(settings_of(folder, load_seconds=1)))


def test_a_process_that_stands_still_is_ended(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial_module, "STARTING_SECONDS", 0)
    trial = Trial(settings_of(folder, load_seconds=1))
    os.kill(trial._process.pid, signal.SIGSTOP)
    assert "must be loaded within 1 s" in refusal(trial)
    assert trial._process.returncode == -signal.SIGKILL


def test_memory_has_no_limit_while_requests_are_answered(
    run_app: Callable[..., RunningApp], monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[int] = []
    replay = loading.replay_golden

    async def observed(predictor: Predictor) -> None:
        found.append(resource.getrlimit(resource.RLIMIT_DATA)[0])
        await replay(predictor)

    monkeypatch.setattr(loading, "replay_golden", observed)
    before = resource.getrlimit(resource.RLIMIT_DATA)[0]
    app = run_app(try_reloads="off")
    app.runner.run(app.app.served.reload())
    at_start, at_reload = found
    assert at_start != before == at_reload
