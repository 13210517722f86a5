"""Who is compared: a model, who trains it, and the settings it may choose from. It knows no library."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from export.data.encoded import EncodedLog
from loadtest.processes.server import REPOSITORY

DEFAULT: Final = "Bidlight, default"
TUNED: Final = "Bidlight, tuned"
SCIKIT: Final = "scikit-learn"
LIGHTGBM: Final = "LightGBM"
FUXICTR: Final = "FuxiCTR"

Settings = Mapping[str, Any]
Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True, eq=False)
class Fitted:
    """A trained model's probabilities, and what its training cost.

    validation, test  pCTRs [n] of the two parts
    epoch_seconds     processor seconds for the steps of an epoch; None where there are no epochs
    epochs            passes over the training part until its weights, or trees
    """

    validation: Floats
    test: Floats
    epoch_seconds: float | None
    epochs: float


Fit = Callable[[EncodedLog, Settings, int], Fitted]


@dataclass(frozen=True)
class Contender:
    """A model as one library trains it.

    model    the model of Bidlight that it stands beside
    by       who trains it: a library, DEFAULT or TUNED
    points   settings that compete on the validation part with the first seed; the best is fitted with all
    fit      (log, settings, seed) -> Fitted
    version  whatever else the result depends on, besides the log
    seeded   False where a seed changes nothing
    """

    model: str
    by: str
    points: tuple[Settings, ...]
    fit: Fit
    version: str
    seeded: bool = True

    @property
    def name(self) -> str:
        """For people: who and what."""
        return f"{self.by}: {self.model}"


def sources(*files: str) -> str:
    """A digest of the code in these files and folders of the repository; comments and layout do not count."""
    digest = hashlib.sha256()
    for file in _files(REPOSITORY / name for name in files):
        code = ast.dump(ast.parse(file.read_text(encoding="utf-8")))
        digest.update(f"{file.relative_to(REPOSITORY)}\n{code}\n".encode())
    return digest.hexdigest()[:16]


def _files(paths: Iterable[Path]) -> Iterable[Path]:
    for path in paths:
        yield from sorted(path.rglob("*.py")) if path.is_dir() else [path]


def step_seconds(marks: list[float], steps_an_epoch: int) -> float:
    """Processor seconds of an epoch's steps, from the clock at the end of each, where all steps are alike.

    It is the median step times the steps, so the few that an evaluation precedes do not count.
    """
    return float(np.median(np.diff(marks))) * steps_an_epoch
