"""From the trials of all models to the best for each budget: one timing of all, and the test part.

Trials are chosen on the validation part; the test part only says how good they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from benchmarks.budgets.records import Best, Budget, Entry, best_of
from benchmarks.budgets.trials import Tried
from export.budgets.cost import microseconds_a_candidate
from export.budgets.kept import prepared_folder, trial_folder
from export.budgets.records import front_of
from export.budgets.subject import Subject, dense_of
from export.budgets.tables import recipe_text
from export.data.encoded import EncodedLog
from export.judge.bootstrap import Delta, interval, resampled_aucs
from export.stages.variants import read_variants
from export.stages.work import Work

RESAMPLES = 400


def entries_of(tried: Sequence[Tried], log: EncodedLog, candidates: int) -> list[Entry]:
    """An entry for each trial that no other of its model beats, which is what its graph is kept of.

    A trial was timed beside the dense graph of its model; those of all models are timed here, in turns.
    """
    dense = {
        one.model: dense_of(Work(prepared_folder(one.folder)), Subject.of(one.work))
        for one in tried
        if any(trial.form for trial in one.trials)
    }
    times = microseconds_a_candidate(dense, log.parts["validation"], candidates)
    return [
        Entry(
            model=one.model,
            trial=trial.number,
            recipe=recipe_text(trial.values),
            graph=trial.form.variant,
            auc=trial.form.auc,
            microseconds=trial.form.share * times[one.model],
            bytes=trial.form.bytes,
            parameters=trial.form.parameters,
        )
        for one in tried
        for front in (front_of(one.trials),)
        for trial in one.trials
        if trial.form is not None and trial.number in front
    ]


def best_for(
    budgets: Sequence[Budget], entries: Sequence[Entry], tried: Sequence[Tried], log: EncodedLog
) -> list[Best]:
    """The best entry for each budget that any keeps, the first budget being none; judged on the test part."""
    chosen = [(budget, best_of(entries, budget)) for budget in budgets]
    kept = [(budget, entry) for budget, entry in chosen if entry is not None]
    distinct = {(entry.model, entry.trial): entry for _, entry in kept}
    test, folders = log.parts["test"], {one.model: one.folder for one in tried}
    scores = []
    for (model, trial), entry in distinct.items():
        variants = read_variants(Work(trial_folder(folders[model], trial)), log.schema)
        scores.append(variants[entry.graph].score(test))
    aucs = dict(
        zip(distinct, resampled_aucs(np.asarray(test.labels), scores, resamples=RESAMPLES), strict=True)
    )
    free = aucs[next(iter(distinct))]
    return [_best(budget, entry, aucs, free) for budget, entry in kept]


def _best(budget: Budget, entry: Entry, aucs: Mapping[tuple[str, int], np.ndarray], free: np.ndarray) -> Best:
    own = aucs[entry.model, entry.trial]
    return Best(
        budget=budget,
        entry=entry,
        auc=float(own[0]),
        auc_interval=interval(own[1:]),
        to_free=Delta.of(own - free),
    )
