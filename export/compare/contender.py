"""One model with one seed: from the shared log through every stage to the quality of its graphs.

It has a work folder of its own, of which `python -m export package` can make a bundle. It knows no other
contender.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from export.compare.records import Result
from export.compress.choice import PruneChoice
from export.data.encoded import open_log
from export.stages.calibrate import read_calibrators
from export.stages.evaluate import evaluate_variants
from export.stages.pipeline import make_graphs
from export.stages.plan import GraphPlan
from export.stages.prune import prune
from export.stages.records import Trained
from export.stages.train import train
from export.stages.variants import read_variants
from export.stages.work import Say, Work, hash_of
from export.train.choices import EmbeddingChoice
from export.train.config import TrainConfig
from service.bundle.json_files import encode_json

RESULT, PCTR, TRACEBACK = "result.json", "test_pctr.npz", "failure.txt"


@dataclass(frozen=True)
class Contender:
    """All inputs of the training and the export of one model with one seed."""

    model: str
    hyperparameters: Mapping[str, Any]
    embedding: EmbeddingChoice
    config: TrainConfig
    pruning: PruneChoice
    graphs: GraphPlan
    shared: Path  # the work folder that holds the log
    log_key: str

    @property
    def seed(self) -> int:
        return self.config.seed

    @property
    def work(self) -> Work:
        return Work(self.shared / "models" / self.model / f"seed-{self.seed}")

    @property
    def key(self) -> str:
        """A hash of the inputs that decide the result; a result with another key is not this contender's.

        Threads are left out: they change the time it takes, and the order of additions.
        """
        inputs = asdict(self)
        del inputs["shared"], inputs["config"]["threads"]
        return hash_of(inputs)

    def kept(self) -> Result | None:
        """The result of an earlier run with the same inputs, where there is one."""
        try:
            found = msgspec.json.decode((self.work.folder / RESULT).read_bytes(), type=Result)
        except (FileNotFoundError, msgspec.MsgspecError):
            return None
        return found if found.key == self.key and self.work.has(PCTR) else None

    def compete(self, begin: Callable[[str], None], say: Say) -> Result:
        """All stages, then the quality on the test part; `begin` gets each stage's name."""
        started = time.perf_counter()
        begin("train")
        work = self.train(say)
        begin("prune")
        prune(work, self.pruning, say=say)
        make_graphs(work, self.graphs, begin, say)
        begin("evaluate")
        return self._evaluate(work, started)

    def train(self, say: Say) -> Work:
        """The first stage alone, in a folder made anew."""
        work = self._fresh_work()
        train(work, self.model, self.hyperparameters, self.config, embedding=self.embedding, say=say)
        return work

    def _fresh_work(self) -> Work:
        """The folder with the shared log alone, as if fit-schema had run here."""
        work = self.work
        work.start("fit-schema")
        for name in (RESULT, PCTR, TRACEBACK):
            (work.folder / name).unlink(missing_ok=True)
        for name in ("log", "fit-schema.json"):
            target = os.path.relpath(self.shared / name, work.folder)
            (work.folder / name).symlink_to(target)
        return work

    def _evaluate(self, work: Work, started: float) -> Result:
        trained = work.read_record("train", Trained)
        log = open_log(work.path("log"))
        variants = read_variants(work, log.schema)
        calibrators = read_calibrators(work, variants)
        evaluated = evaluate_variants(variants, calibrators, log.parts["test"])
        with work.writing(PCTR) as partial, partial.open("wb") as file:
            np.savez(file, **evaluated.pctr)  # type: ignore[arg-type]
        result = Result(
            key=self.key,
            model=self.model,
            seed=self.seed,
            hyperparameters=trained.hyperparameters,
            config=trained.config,
            parameters=trained.parameters,
            epochs=trained.epochs,
            best_epoch=trained.best_epoch,
            seconds_an_epoch=trained.seconds_an_epoch,
            seconds=time.perf_counter() - started,
            graph_bytes={name: len(one.graph) for name, one in variants.items()},
            calibration={name: one.method_in_words for name, one in calibrators.items()},
            metrics=evaluated.calibrated,
            parity=evaluated.parity,
        )
        work.write(RESULT, encode_json(result))
        return result


def read_pctr(work: Work, variant: str) -> NDArray[np.float64]:
    """Calibrated pCTR [n] of the rows of the test part, in their order."""
    with np.load(work.folder / PCTR, allow_pickle=False) as arrays:
        pctr: NDArray[np.float64] = arrays[variant]
    return pctr
