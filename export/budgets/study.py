"""Draws the next point of a search from the trials that have ended: Optuna, in memory, for each point anew.

The trials are kept as files (`export.budgets.search`), so they serve a search with other limits, too. What is
drawn depends on the seed, the limits and these trials, not on the process.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import optuna
from optuna.samplers import TPESampler
from optuna.trial import FixedTrial, create_trial

from export.budgets.records import Limits, Trial
from export.budgets.space import DRAWN, Space
from export.trials import Value, drawn, seed_of

# A small space may have been tried as a whole.
MOST_DRAWS: Final = 20


def next_point(
    space: Space, done: Sequence[Trial], limits: Limits, seed: int
) -> tuple[str, dict[str, Value]]:
    """The name and the point of the next trial: the starts of the space first, then what the sampler draws.

    The sampler (Bergstra et al., "Algorithms for Hyper-Parameter Optimization", NIPS 2011) prefers points
    like those of the trials that are best within the limits. The front of AUC, time and bytes is no aim:
    most of it is of no use within one budget, and there are always smaller and worse forms to extend it by.
    """
    starts = space.starts()
    if len(done) < len(starts):
        return starts[len(done)]
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    sampler = TPESampler(seed=seed_of(seed, len(done)), n_startup_trials=0)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    for one in done:
        if one.form is not None:
            again = FixedTrial(one.values)  # which finds the distributions of its axes
            drawn(again, space.axes)
            study.add_trial(
                create_trial(
                    params=again.params,
                    distributions=again.distributions,
                    value=limits.worth(one.form),
                    constraints=limits.excess(one.form),
                )
            )
    tried = [one.values for one in done]
    for _ in range(MOST_DRAWS):
        point = drawn(study.ask(), space.axes)
        if point not in tried:
            break
    return DRAWN, point
