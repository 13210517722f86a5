"""Draws the next point of a search from the trials that have ended: Optuna, in memory, for each point anew.

The trials are kept as files (`export.budgets.search`), so they serve a search with other limits, too. What is
drawn depends on the seed, the limits and these trials, not on the process.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import optuna
from optuna.distributions import FloatDistribution
from optuna.samplers import TPESampler
from optuna.trial import create_trial

from export.budgets.records import Limits, Trial
from export.budgets.space import Space
from export.trials import seed_of

# AUC, microseconds, bytes.
DIRECTIONS: Final = ("maximize", "minimize", "minimize")


def next_point(
    space: Space, done: Sequence[Trial], limits: Limits, seed: int
) -> tuple[str, dict[str, float]]:
    """The name and the point of the next trial: the presets first, then what the sampler draws.

    The sampler (Bergstra et al., "Algorithms for Hyper-Parameter Optimization", NIPS 2011, for several
    objectives) prefers points like those of trials that no other beats, and that keep the limits.
    """
    starts = space.starts()
    if len(done) < len(starts):
        return starts[len(done)]
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    sampler = TPESampler(seed=seed_of(seed, len(done)), n_startup_trials=0)
    study = optuna.create_study(directions=DIRECTIONS, sampler=sampler)
    axes = {axis.part: FloatDistribution(axis.least, 1.0, log=True) for axis in space.axes}
    for one in done:
        if one.form is not None:
            study.add_trial(
                create_trial(
                    params=one.kept,
                    distributions=dict(axes),
                    values=(one.form.auc, one.form.microseconds, one.form.bytes),
                    constraints=limits.excess(one.form),
                )
            )
    return "drawn", space.settled(study.ask(dict(axes)).params)
