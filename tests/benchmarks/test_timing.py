"""Steps that are timed take turns, and the first round warms up."""

from __future__ import annotations

from benchmarks.timing import median_in_turns


def test_steps_take_turns_and_the_first_warms_up() -> None:
    called: list[str] = []
    times = {"slow": iter([90.0, 3.0, 1.0, 2.0]), "quick": iter([50.0, 0.5, 0.25, 0.75])}

    def step(name: str) -> float:
        called.append(name)
        return next(times[name])

    found = median_in_turns({"slow": lambda: step("slow"), "quick": lambda: step("quick")}, rounds=3)
    assert found == {"slow": 2.0, "quick": 0.5}
    assert called == ["slow", "quick"] * 4
