"""LightGBM with its own treatment of categories. Import it where LightGBM is installed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lightgbm
import numpy as np

from benchmarks.peers.columns import tree_columns
from benchmarks.peers.contender import LIGHTGBM, Contender, Fitted, Settings, sources
from benchmarks.peers.grid import Shape
from export.data.encoded import EncodedLog

MOST_TREES, PATIENCE = 2000, 50
SHARED = {
    "objective": "binary",
    "learning_rate": 0.05,
    "feature_fraction": 0.8,
    "bagging_fraction": 0.8,
    "bagging_freq": 1,
    "num_threads": 1,
    "deterministic": True,
    "verbose": -1,
}


def contenders(models: Sequence[str], shape: Shape) -> list[Contender]:
    """Beside gbdt_lr, if that is one of the models."""
    own = sources("benchmarks/peers/boosting.py", "benchmarks/peers/columns.py")
    points = tuple({"num_leaves": leaves, "cat_smooth": smooth} for leaves in (7, 31) for smooth in (10, 100))
    trees = Contender("gbdt_lr", LIGHTGBM, points, fit_trees, f"{lightgbm.__version__} {own}")
    return [trees] if trees.model in models else []


def fit_trees(log: EncodedLog, settings: Settings, seed: int) -> Fitted:
    """Trees until the validation LogLoss has not fallen for PATIENCE trees; the best number of them."""
    columns, categories = tree_columns(log)
    data: dict[str, Any] = {
        part: lightgbm.Dataset(
            columns[part], np.asarray(log.parts[part].labels), categorical_feature=categories
        )
        for part in ("train", "validation")
    }
    data["validation"].set_reference(data["train"])
    model = lightgbm.train(
        {**SHARED, **settings, "seed": seed},
        data["train"],
        num_boost_round=MOST_TREES,
        valid_sets=[data["validation"]],
        callbacks=[lightgbm.early_stopping(PATIENCE, verbose=False)],
    )
    validation, test = (
        np.asarray(model.predict(columns[part], num_iteration=model.best_iteration))
        for part in ("validation", "test")
    )
    return Fitted(validation, test, None, float(model.best_iteration))
