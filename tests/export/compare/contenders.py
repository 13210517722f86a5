"""Contenders that end as no model should; processes that a test starts find them in this module."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from export.compare.contender import Contender
from export.compare.records import Result
from export.compress.choice import PruneChoice
from export.errors import ExportError
from export.stages.plan import GraphPlan
from export.stages.work import Say
from export.train.choices import EmbeddingChoice
from export.train.config import TrainConfig


@dataclass(frozen=True)
class Ending(Contender):
    """Says a line, then ends as its model's name tells."""

    def compete(self, begin: Callable[[str], None], say: Say) -> Result:
        self.work.folder.mkdir(parents=True)
        say("here I am")
        begin("quantize")
        if self.model == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.model == "defect":
            raise ZeroDivisionError("a defect\nof two lines")
        if self.model == "refused":
            raise ExportError("'field' must be a sequence (got 'C1'); give one")
        return Result(
            key=self.key, model=self.model, seed=self.seed, hyperparameters={}, config=self.config,
            parameters=1, epochs=1, best_epoch=1, seconds_an_epoch=1.0, seconds=1.0, graph_bytes={},
            calibration={}, metrics={}, parity=(),
        )  # fmt: skip


def ending(model: str, shared: Path, *, seed: int = 0) -> Ending:
    """One of them, with a work folder of its own in `shared`."""
    return Ending(
        model=model, hyperparameters={"dim": 4}, embedding=EmbeddingChoice(), config=TrainConfig(seed=seed),
        pruning=PruneChoice(preset="none"), shared=shared, log_key="the log",
        graphs=GraphPlan(quantization_rows=10, calibration_methods=("identity",)),
    )  # fmt: skip
