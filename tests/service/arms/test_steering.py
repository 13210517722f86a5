"""Weights and kills change as commands say, and processes that share them never meet half of a change."""

from __future__ import annotations

import os
import signal
import time

import msgspec
import pytest

from service.arms.shadowing import Shadowing
from service.arms.split import ArmSpec
from service.arms.steering import Change, Steering
from service.arms.steering_memory import SteeringMemory, UnreadableSteering
from service.errors import BadConfiguration, UnknownArm

SPECS = [ArmSpec("control", "A", 90.0), ArmSpec("treatment", "B", 10.0), ArmSpec("off", "C", 0.0)]
LATER = Change(2.0, "weights", 1000)


def steering() -> Steering:
    return Steering.of(SPECS, now=1.0)


def test_the_arms_that_change_say_when_and_by_whom() -> None:
    changed = steering().with_weights({"treatment": 20.0, "control": 90.0}, LATER)
    assert changed.weights == {"control": 90.0, "treatment": 20.0, "off": 0.0}
    assert [arm.changed for arm in changed.arms] == [Change(1.0, "start"), LATER, Change(1.0, "start")]
    killed = changed.with_killed("off", LATER, is_killed=True)
    assert killed.killed == {"off"}
    assert killed.with_killed("off", LATER, is_killed=True) == killed
    assert killed.with_killed("off", LATER, is_killed=False).killed == set()


@pytest.mark.parametrize(
    ("weights", "error", "message"),
    [
        ({"treatmnt": 1.0}, UnknownArm, "must be one of control, treatment, off .got 'treatmnt'"),
        ({"control": -1.0}, BadConfiguration, "'weight' of arm control must be a finite number from 0"),
        ({"control": float("inf")}, BadConfiguration, "'weight' of arm control must be a finite number"),
        ({"control": 0.0, "treatment": 0.0}, BadConfiguration, "got 0 for control, treatment, off"),
    ],
)
def test_weights_are_checked_as_at_the_start(
    weights: dict[str, float], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        steering().with_weights(weights, LATER)


def test_an_unknown_arm_cannot_be_killed() -> None:
    with pytest.raises(UnknownArm, match="got 'nobody'"):
        steering().with_killed("nobody", LATER, is_killed=True)


def test_a_shadow_has_no_weight_and_keeps_none() -> None:
    shadowing, change = Shadowing("control", 0.1), Change(3.0, "shadow", 1000)
    changed = steering().with_shadow("treatment", shadowing, change)
    assert changed.shadows == {"treatment": shadowing}
    assert changed.weights == {"control": 90.0, "treatment": 0.0, "off": 0.0}
    assert changed.with_shadow("treatment", shadowing, LATER) == changed
    assert changed.with_weights({"treatment": 0.0, "control": 1.0}, LATER).shadows == changed.shadows
    with pytest.raises(
        BadConfiguration, match="'weight' of arm treatment must be 0 as long as it is a shadow"
    ):
        changed.with_weights({"treatment": 1.0}, LATER)
    ended = changed.with_shadow("treatment", None, LATER)
    assert (ended.shadows, ended.weights["treatment"], ended.arms[1].changed) == ({}, 0.0, LATER)
    assert ended.with_weights({"treatment": 1.0}, LATER).total == 91.0
    assert Steering.of(SPECS, 1.0, {"treatment": shadowing}).arms[1] == msgspec.structs.replace(
        changed.arms[1], changed=Change(1.0, "start")
    )


@pytest.mark.parametrize(
    ("name", "shadowing", "error", "message"),
    [
        ("nobody", Shadowing("control", 1.0), UnknownArm, "got 'nobody'"),
        ("treatment", Shadowing("nobody", 1.0), UnknownArm, "got 'nobody'"),
        ("treatment", Shadowing("treatment", 1.0), BadConfiguration, "which is the same"),
        ("treatment", Shadowing("control", 2.0), BadConfiguration, "'share' of shadow treatment"),
        ("off", Shadowing("treatment", 1.0), BadConfiguration, "which is a shadow too"),
        ("control", Shadowing("off", 1.0), BadConfiguration, "'weight' must be above 0 for one arm or more"),
    ],
)
def test_what_cannot_be_a_shadow_is_refused(
    name: str, shadowing: Shadowing, error: type[Exception], message: str
) -> None:
    shadowed = steering().with_shadow("treatment", Shadowing("control", 0.5), LATER)
    with pytest.raises(error, match=message):
        shadowed.with_shadow(name, shadowing, LATER)


def test_what_is_written_is_read_and_each_process_notes_what_it_serves() -> None:
    memory = SteeringMemory(steering(), processes=3)
    assert memory.read() == (1, steering())
    changed = steering().with_weights({"off": 5.0}, LATER)
    assert memory.write(changed) == memory.version == 2
    assert memory.read() == (2, changed)
    memory.note(2, 2)
    assert [memory.noted(process) for process in range(3)] == [0, 0, 2]
    assert memory.read() == (2, changed)


def test_the_longest_names_and_numbers_of_many_arms_have_room() -> None:
    specs = [ArmSpec(f"{number:064d}", "A", 1.2345678901234567e300) for number in range(500)]
    memory = SteeringMemory(Steering.of(specs, 1.2345678901234567e9))
    change = Change(1.2345678901234567e9, "rollback", (1 << 32) - 1)
    changed = memory.read()[1]
    changed = msgspec.structs.replace(
        changed, arms=tuple(msgspec.structs.replace(arm, changed=change) for arm in changed.arms)
    )
    memory.write(changed)
    assert memory.read()[1] == changed


def test_what_no_process_writes_is_refused() -> None:
    memory = SteeringMemory(steering())
    memory._bytes[memory._half(1) + 40] ^= 1
    with pytest.raises(UnreadableSteering):
        memory.read()


def test_a_reader_never_meets_half_of_a_change_also_of_a_writer_that_is_killed() -> None:
    """The writer gives all arms the same weight, over and over; a mixture would show two."""
    memory = SteeringMemory(Steering.of([ArmSpec(f"arm-{number}", "A") for number in range(20)], now=1.0))
    writer = os.fork()
    if writer == 0:
        written = memory.read()[1]
        weight = 1.0
        while True:
            weight += 1.0
            memory.write(
                written.with_weights(dict.fromkeys(written.weights, weight), Change(weight, "weights"))
            )
    try:
        seen: set[int] = set()
        deadline = time.monotonic() + 1.0
        while time.monotonic() < deadline:
            version, read = memory.read()
            assert set(read.weights.values()) == {float(version)}
            seen.add(version)
    finally:
        os.kill(writer, signal.SIGKILL)
        os.waitpid(writer, 0)
    assert len(seen) > 10
    version, read = memory.read()  # whatever it was doing
    assert set(read.weights.values()) == {float(version)}
