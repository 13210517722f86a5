"""scikit-learn's logistic regression on one-hot ids, and its boosted trees on target encoding."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.preprocessing import TargetEncoder

from benchmarks.peers.columns import FOLDS, one_hot, tree_columns
from benchmarks.peers.contender import SCIKIT, Contender, Fitted, Settings, sources
from benchmarks.peers.grid import Shape
from export.data.encoded import EncodedLog

C = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
MOST_TREES, SHRINKAGE = 1000, 0.05


def contenders(models: Sequence[str], shape: Shape) -> list[Contender]:
    """Beside lr and beside gbdt_lr, as far as they are among the models."""
    made_by = (
        f"{version('scikit-learn')} {sources('benchmarks/peers/scikit.py', 'benchmarks/peers/columns.py')}"
    )
    trees = tuple(
        {"max_leaf_nodes": leaves, "l2_regularization": l2} for leaves in (7, 31) for l2 in (1.0, 30.0)
    )
    found = [
        Contender("lr", SCIKIT, tuple({"C": c} for c in C), fit_regression, made_by, seeded=False),
        Contender("gbdt_lr", SCIKIT, trees, fit_trees, made_by),
    ]
    return [one for one in found if one.model in models]


def fit_regression(log: EncodedLog, settings: Settings, seed: int) -> Fitted:
    """One-hot ids, no interaction; the seed changes nothing."""
    model = LogisticRegression(max_iter=300, **settings)
    model.fit(one_hot(log, "train"), np.asarray(log.parts["train"].labels))
    validation, test = (model.predict_proba(one_hot(log, part))[:, 1] for part in ("validation", "test"))
    return Fitted(validation, test, None, float(model.n_iter_[0]))


def fit_trees(log: EncodedLog, settings: Settings, seed: int) -> Fitted:
    """Histogram trees; categories as click rates, cross-fitted, and early stopping on the validation part."""
    columns, categories = tree_columns(log)
    labels = {part: np.asarray(log.parts[part].labels) for part in columns}
    if categories:
        encoder = TargetEncoder(cv=StratifiedKFold(FOLDS, shuffle=True, random_state=seed))
        rates = encoder.fit_transform(columns["train"][:, categories], labels["train"])
        for part in ("validation", "test"):
            columns[part][:, categories] = encoder.transform(columns[part][:, categories])
        columns["train"][:, categories] = rates
    model = HistGradientBoostingClassifier(
        learning_rate=SHRINKAGE, max_iter=MOST_TREES, early_stopping=True, random_state=seed, **settings
    )
    model.fit(columns["train"], labels["train"], X_val=columns["validation"], y_val=labels["validation"])
    validation, test = (model.predict_proba(columns[part])[:, 1] for part in ("validation", "test"))
    return Fitted(validation, test, None, float(model.n_iter_))
