"""The core reads no byte that is not its own and keeps its claims: a fuzzer looks for what breaks one."""

from __future__ import annotations

import subprocess

import pytest

from tests.native.fuzzing import CannotFuzz, Fuzzer
from tests.native.seeds import SEEDS

SECONDS = 4.0

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def fuzzer(tmp_path_factory: pytest.TempPathFactory) -> Fuzzer:
    try:
        return Fuzzer.build(tmp_path_factory.mktemp("fuzz"))
    except CannotFuzz as error:
        pytest.skip(str(error))
    except subprocess.CalledProcessError as error:
        pytest.fail(error.stdout[-5000:])


@pytest.mark.parametrize("target", SEEDS)
def test_no_input_makes_the_core_leave_its_memory_or_break_a_claim(fuzzer: Fuzzer, target: str) -> None:
    seeds = len(list(fuzzer.kept(target).iterdir()))
    report = fuzzer.run(target, SECONDS)
    assert not report.failed, report.output[-5000:]
    # It has come further than its seeds; how far depends on what else the machine does.
    assert report.executions > seeds


def test_bodies_that_reach_new_code_are_answered_alike(fuzzer: Fuzzer) -> None:
    count, differences = fuzzer.compare()
    assert not differences, differences[0]
    assert count > 1000
