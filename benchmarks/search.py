"""How near a search comes to the best settings, by trials and by how many of them are drawn at random.

    python -m benchmarks.search [--random 1 3 6 10 30] [--trials 15 30] [--spread 30] [--repeats 20]

Nothing is trained: the space is deepfm's, and a score is the squared distance from a best point, which is
drawn around the defaults for each repeat, with noise; axes are scaled to their ends. The first trial has the
defaults; with as many random trials as --trials, chance draws all others. The ceiling is 0, noise aside.
"""

from __future__ import annotations

import math
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmarks.command import Command, ended, print_table
from export.train.build import build_from_fields
from export.train.choices import TrainChoice
from export.trials import Axis, Value
from export.tune.records import TrialRecord
from export.tune.space import Space, space_of
from export.tune.study import Study
from models.fields import Field

MODEL, ROWS, CLICKS = "deepfm", 20_000, 4_000
NOISE = 0.02  # standard deviation of a score


def a_space() -> Space:
    """The axes around the defaults of the model."""
    network = build_from_fields(MODEL, (Field("site", 20), Field("ad", 20, role="candidate")), {})
    return space_of(MODEL, network, {}, TrainChoice(), rows=ROWS, clicks=CLICKS)


def place(axis: Axis, value: Value) -> float:
    """Where a value lies between the ends of its axis, from 0 to 1."""
    if axis.choices:
        return axis.choices.index(value) / (len(axis.choices) - 1)
    if axis.log:
        return math.log(float(value) / axis.low) / math.log(axis.high / axis.low)
    return (float(value) - axis.low) / (axis.high - axis.low)


def distance(space: Space, values: Mapping[str, Value], best: Mapping[str, float]) -> float:
    """The squared distance of a point from the best one, over the axes that it has."""
    axes = [axis for axis in space.axes if axis.name in values]
    return sum((place(axis, values[axis.name]) - best[axis.name]) ** 2 for axis in axes)


def run(space: Space, *, trials: int, random_trials: int, spread: float, seed: int) -> list[float]:
    """The distance of each trial's point, in order; scores have noise, distances none.

    `spread` is the standard deviation of the best point around the defaults, on each axis of length 1.
    """
    draw = np.random.default_rng(seed)
    best = {
        axis.name: float(np.clip(place(axis, axis.default) + spread * draw.normal(), 0.0, 1.0))
        for axis in space.axes
    }
    found = []
    with tempfile.TemporaryDirectory() as folder:
        study = Study(
            Path(folder), space, seed=seed, metric="logloss", warm_up=1, random_trials=random_trials
        )
        for _ in range(trials):
            asked = study.ask()
            found.append(distance(space, asked.values, best))
            score = found[-1] + NOISE * float(draw.normal())
            record = TrialRecord(
                number=asked.number, state="finished", values=asked.values, settings={}, score=score,
                seconds=0.0, evaluations=1,
            )  # fmt: skip
            study.tell(asked, record)
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the mean distance of the nearest point, a line for each number of random trials."""
    command = Command("search", __doc__)
    command.numbers("--random", (1, 3, 6, 10, 30), "trials before the sampler models what went well")
    command.numbers("--trials", (15, 30), "trials of a search")
    command.number("--spread", 30, "percent of an axis that the best point is typically off the defaults")
    command.number("--repeats", 20, "best points")
    options = command.parse_args(arguments)
    space, most = a_space(), max(options.trials)
    rows, figures = [], {}
    for random in options.random:
        runs = [
            run(space, trials=most, random_trials=random, spread=options.spread / 100, seed=seed)
            for seed in range(options.repeats)
        ]
        figures[random] = [float(np.mean([min(one[:trials]) for one in runs])) for trials in options.trials]
        defaults = float(np.mean([one[0] for one in runs]))
        rows.append([str(random), f"{defaults:.3f}", *(f"{value:.3f}" for value in figures[random])])
    print_table([["random trials", "defaults", *(f"{trials} trials" for trials in options.trials)], *rows])
    command.print_json(
        trials=options.trials,
        spread=options.spread,
        distances={str(key): value for key, value in figures.items()},
    )


if __name__ == "__main__":
    sys.exit(ended(main))
