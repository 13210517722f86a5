"""What came of each cell, a JSON a cell and seed: a cell that has ended is never run again.

A file is named by a hash of all that decides its content, so changed settings make another file. It runs
nothing.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from benchmarks.papers.cells import Build
from export.stages.work import Work, hash_of
from service.bundle.folders import replacing
from service.bundle.json_files import encode_json
from service.bundle.manifest import Metrics

VERSION = 1  # of how a cell is made: what a newer one makes is another cell
PCTR = "test_pctr.npy"


class Result(msgspec.Struct, frozen=True, kw_only=True, tag="result"):
    """A model with one seed, on the test part; `metrics` follow a line fitted to the calibration part.

    `bytes` are those of its graph, or where it is not quantized 4 a parameter. `layer_parameters` are those
    outside the embeddings, before pruning; `reached` is the share of each part that pruning made zero. `kept`
    says which of two models was the better one and counts.
    """

    key: str
    build: dict[str, Any]
    seed: int
    log: str
    metrics: Metrics
    parameters: int
    layer_parameters: int
    bytes: int
    epochs: float
    seconds: float
    reached: dict[str, float] = {}
    live_neurons: tuple[int, ...] = ()
    live_pairs: int | None = None
    kept: str = ""


class Refused(msgspec.Struct, frozen=True, kw_only=True, tag="refused"):
    """Why there is no result. It is tried again: another version may be able to do it."""

    key: str
    build: dict[str, Any]
    seed: int
    log: str
    reason: str


@dataclass(frozen=True)
class Job:
    """A build with one seed on one log, in this run's settings; `key` names its files."""

    build: Build
    seed: int
    log_key: str
    source: str
    settings: dict[str, Any]

    @property
    def key(self) -> str:
        """A hash of all inputs."""
        return hash_of([VERSION, asdict(self.build), self.seed, self.log_key, self.settings])[:20]

    def of(self, build: Build) -> Job:
        """Another build in the same settings."""
        return Job(build, self.seed, self.log_key, self.source, self.settings)


@dataclass(frozen=True)
class Cabinet:
    """The folder of a paper's runs: `cells` holds the results, `models` what they were made in."""

    folder: Path

    def read(self, job: Job) -> Result | Refused | None:
        """What came of a job, if it ended; a result only with its pCTRs beside it."""
        try:
            found = msgspec.json.decode(self._file(job).read_bytes(), type=Result | Refused)
        except (FileNotFoundError, msgspec.MsgspecError):
            return None
        is_whole = isinstance(found, Refused) or (self.work(job).folder / PCTR).exists()
        return found if is_whole else None

    def result(self, job: Job) -> Result | None:
        """The result of a job, if it has one."""
        found = self.read(job)
        return found if isinstance(found, Result) else None

    def write(self, job: Job, outcome: Result | Refused) -> None:
        """Whole, or as it was."""
        with replacing(self._file(job)) as incoming:
            incoming.write_bytes(encode_json(outcome))

    def work(self, job: Job) -> Work:
        """The work folder in which a job's model is made."""
        return Work(self.folder / "models" / job.key)

    def pctr(self, job: Job) -> NDArray[np.float64]:
        """Calibrated pCTRs of the test part, [n]."""
        found: NDArray[np.float64] = np.load(self.work(job).folder / PCTR, allow_pickle=False)
        return found

    def _file(self, job: Job) -> Path:
        return self.folder / "cells" / f"{job.key}.json"
