"""Scenarios of `make faults` against the real service and a tiny bundle: what is counted holds, untimed."""

from __future__ import annotations

from pathlib import Path

import pytest

from loadtest.faults.catalogue import SCENARIOS
from loadtest.faults.ground import Ground, Subject
from loadtest.processes.machine import missing_tools
from loadtest.processes.redis_server import missing_redis
from tests.tiny_bundle import write_tiny_bundle

NEED_WRK = ("overload", "ladder", "closed_loop")
# These differ from others in a number, or other tests hold the same.
LEFT_OUT = (
    "overload_1",
    "overload_100",
    "closed_loop",
    "ladder_100_tmax",
    "ladder_500_short_queue",
    "dear_bodies",
    "overload_500",
    "overload_1_tmax",
    "overload_500_tmax",
    "idle_after_large",
    "slow_heads",
    "slow_bodies",
    "stopped_bodies",
    "reloads_of_workers",
    "redis_goes_and_comes",
    "users_file_overwritten",
    "forged_cardinality",
    "stop_fresh",
    "stop_kept",
    "scrapes_during_reloads",
)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny", name="tiny", seed=0)


@pytest.mark.parametrize("name", [name for name in SCENARIOS if name not in LEFT_OUT])
def test_a_fault_is_borne(name: str, bundle: Path, tmp_path: Path) -> None:
    if lack := (name.startswith(NEED_WRK) and missing_tools()) or (
        name.startswith("redis") and missing_redis()
    ):
        pytest.skip(lack)
    scenario = SCENARIOS[name]
    figures = scenario.run(Ground(bundle, tmp_path, Subject(), is_quick=True, connections=200))
    assert [each.figure for each in scenario.missed(figures) if not each.is_timed] == [], figures


def test_what_is_left_out_are_scenarios() -> None:
    assert {*LEFT_OUT} <= SCENARIOS.keys()
