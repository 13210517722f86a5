"""All stages in order, from a raw log to a bundle: the stages do the work, here is what they are given."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from export.calibrate import METHODS
from export.compress.prune import PruneConfig
from export.data.readers import OnMalformed
from export.data.splits import DEFAULT_SHARES
from export.data.synthetic import SyntheticConfig
from export.data.synthetic_file import write_synthetic_log
from export.graph_stages import calibrate, quantize, to_onnx
from export.model_stages import fit_schema, prune, train
from export.package import package, refuse_foreign
from export.report.summary import summary
from export.train.config import TrainConfig
from export.work import Work
from service.bundle.store import Bundle

Say = Callable[[str], None]

# The paper's, for logs of millions of rows. A log is small when its training part holds fewer than 200 such
# batches: it gets smaller ones, and Adam's step goes with the root of the batch (Malladi et al., 2022).
PAPERS_BATCH, PAPERS_LEARNING_RATE = 2048, 1e-3
SMALLEST_BATCH, STEPS_AN_EPOCH = 64, 200
LONGEST_WARMUP = 100


@dataclass(frozen=True)
class TrainChoice:
    """How to train, before the log's size is known: None leaves a number to `config`."""

    epochs: int = 10
    batch_size: int | None = None
    learning_rate: float | None = None
    l2: float = 3e-7
    embedding_l2: float = 1e-6
    evaluations_per_epoch: int = 4
    patience: int = 6
    seed: int = 0
    threads: int | None = None
    device: str = "cpu"

    def config(self, rows: int) -> TrainConfig:
        """The configuration for a training part of this many rows: the paper's where that is large."""
        batch_size = self.batch_size or fitting_batch(rows)
        steps_an_epoch = -(-rows // batch_size)
        fitting_rate = PAPERS_LEARNING_RATE * (batch_size / PAPERS_BATCH) ** 0.5
        return TrainConfig(
            epochs=self.epochs,
            batch_size=batch_size,
            learning_rate=self.learning_rate or fitting_rate,
            warmup_steps=min(LONGEST_WARMUP, steps_an_epoch // 2),
            l2=self.l2,
            embedding_l2=self.embedding_l2,
            evaluations_per_epoch=self.evaluations_per_epoch,
            patience=self.patience,
            seed=self.seed,
            threads=self.threads,
            device=self.device,
        )


@dataclass(frozen=True)
class Plan:
    """Everything that a run needs to be told."""

    data: Path
    schema: str
    out: Path
    work: Path
    name: str | None = None
    split: tuple[float, float, float, float] = DEFAULT_SHARES
    on_malformed: OnMalformed = "error"
    min_count: int | None = None
    model: str = "deep_fwfm"
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    training: TrainChoice = field(default_factory=TrainChoice)
    checkpoint: Path | None = None
    preset: str = "low-latency"
    schedule: PruneConfig = field(default_factory=lambda: PruneConfig(finetune_epochs=2.0))
    prune_learning_rate: float = PAPERS_LEARNING_RATE
    quantization_rows: int = 16_384
    sampling_rate: float = 1.0
    methods: Sequence[str] = tuple(METHODS)


def run(plan: Plan, *, say: Say = print) -> Bundle:
    """Every stage; returns the bundle as it was read back. The first thing that cannot work ends it."""
    refuse_foreign(plan.out)
    say = clock = Clock(say)
    work = Work(plan.work)
    clock.stage("fit-schema", f"{plan.data.name} by the schema {plan.schema}")
    log = fit_schema(
        work,
        plan.data,
        plan.schema,
        split=plan.split,
        on_malformed=plan.on_malformed,
        min_count=plan.min_count,
        say=say,
    )
    clock.stage("train", plan.checkpoint.name if plan.checkpoint else plan.model)
    train(
        work,
        plan.model,
        plan.hyperparameters,
        plan.training.config(log.rows["train"]),
        checkpoint=plan.checkpoint,
        say=say,
    )
    clock.stage("prune", plan.preset)
    prune(work, plan.preset, plan.schedule, learning_rate=plan.prune_learning_rate, say=say)
    clock.stage("to-onnx", "")
    to_onnx(work, say=say)
    clock.stage("quantize", "")
    quantize(work, rows=plan.quantization_rows, say=say)
    clock.stage("calibrate", "")
    calibrate(work, sampling_rate=plan.sampling_rate, methods=plan.methods, say=say)
    clock.stage("package", str(plan.out))
    bundle = package(work, plan.out, name=plan.name, say=say)
    say(summary(bundle))
    return bundle


def demo(out: Path, *, rows: int, seed: int = 0, threads: int | None = None, say: Say = print) -> Bundle:
    """A bundle from a small synthetic log, to have something to serve."""
    refuse_foreign(out)
    work = default_work(out)
    log = work.with_name(f"{work.name}-log") / "clicks.parquet"
    say(f"writing a synthetic log of {rows:,} rows")
    schema = write_synthetic_log(
        SyntheticConfig(rows=rows, seed=seed, features=20_000, rows_per_day=-(-rows // 7)), log, report=say
    )
    plan = Plan(
        data=log,
        schema=str(schema),
        out=out,
        work=work,
        hyperparameters={"dim": 8, "hidden_units": [128, 128], "dropout": 0.2},
        training=TrainChoice(epochs=3, seed=seed, threads=threads),
        schedule=PruneConfig(pruning_epochs=1.0, finetune_epochs=1.0),
    )
    return run(plan, say=say)


def default_work(out: Path) -> Path:
    """Where the stages of a run hand over when nothing else is said: .work/NAME beside the bundle."""
    out = out.resolve()
    return out.parent / ".work" / out.name


def fitting_batch(rows: int) -> int:
    """Rows a step: the paper's 2048, or for a small log the power of two that gives 200 steps an epoch."""
    largest = max(SMALLEST_BATCH, min(PAPERS_BATCH, rows // STEPS_AN_EPOCH))
    return 1 << (largest.bit_length() - 1)


class Clock:
    """Says lines as they are, and a heading a stage with the time that has passed."""

    def __init__(self, say: Say) -> None:
        self.say = say
        self.started = time.perf_counter()

    def __call__(self, text: str) -> None:
        self.say(text)

    def stage(self, name: str, about: str) -> None:
        seconds = time.perf_counter() - self.started
        self.say(f"\n[{seconds:6.1f} s] {name}{': ' if about else ''}{about}")
