"""Runs all stages in order, from a raw log to a bundle, and passes each what the plan says."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from export.compress.choice import PruneChoice
from export.data.log_schema import load_log_schema
from export.data.progress import Bar
from export.data.synthetic import SyntheticConfig
from export.data.synthetic_file import write_synthetic_log
from export.errors import ExportError
from export.report.summary import summary
from export.stages.baseline import baseline
from export.stages.calibrate import calibrate_as_planned
from export.stages.calibration_segments import check_segment_field
from export.stages.fit_schema import fit_schema
from export.stages.package import check_out, package
from export.stages.plan import ExportPlan, GraphPlan, Plan, default_work
from export.stages.prune import prune
from export.stages.quantize import quantize
from export.stages.records import LogSummary, Searched
from export.stages.taught import Taught, Teach, check_distillation
from export.stages.to_onnx import to_onnx
from export.stages.train import check_device, check_no_overrides, train
from export.stages.warm_start import WarmStart, check_warm_start, read_warm_start
from export.stages.work import Say, Work
from export.train.build import check_fields, check_model
from export.train.checkpoint import load_checkpoint
from export.train.choices import TrainChoice
from export.train.config import TrainConfig
from service.bundle.store import Bundle

_STAGES = 8  # of a run that does not search


class Search(Protocol):
    """A search before the training: hyperparameters and training for it, and its record."""

    def __call__(
        self, plan: Plan, summary: LogSummary, work: Work, taught: Taught | None, say: Say
    ) -> tuple[Mapping[str, Any], TrainChoice, Searched]: ...


def run(plan: Plan, *, search: Search | None = None, teach: Teach | None = None, say: Say = print) -> Bundle:
    """Runs every stage and returns the bundle as read back. The first error ends the run.

    `search` is what a preset that searches needs, `export.tune.tune.tune_before_run`; `teach` what a plan
    with teachers needs, `export.teach.lesson.Lesson`.
    """
    check_warm_start(plan)
    warm = None if plan.warm_start is None else read_warm_start(plan.warm_start)
    if warm is not None:
        plan = warm.settled(plan)
    plan = _checked(plan, search)
    _check_teachers(plan, teach)
    if plan.checkpoint is None:
        check_fields(plan.model, plan.hyperparameters, load_log_schema(plan.schema), plan.embedding)
    stages = _STAGES + plan.pruning.searches + bool(plan.teachers)
    with (
        Work(plan.work).held(new=True) as work,
        Bar("run", stages, unit="stages", whole=True, even=False) as bar,
    ):
        return _stages(plan, work, Clock(say, bar), search, teach, warm)


def _checked(plan: Plan, search: Search | None = None) -> Plan:
    """The plan, with the model of its checkpoint.

    Raises, before the first row is read, what would otherwise end the export after hours.
    """
    check_out(plan.out, plan.name)
    takes_model = plan.checkpoint is not None or plan.warm_start is not None
    if plan.pruning.searches and (search is None or takes_model):
        why = "takes a trained model" if takes_model else "has no search to run"
        raise ExportError(
            f"'preset' must be none where the run {why} (got {plan.pruning.preset!r}); "
            "leave out one of the two"
        )
    check_export(plan)
    if plan.checkpoint is not None:
        check_no_overrides(plan.checkpoint, plan.hyperparameters, plan.embedding, plan.training)
        return replace(plan, model=load_checkpoint(plan.checkpoint).name)
    check_model(plan.model, plan.hyperparameters)
    return plan


def _check_teachers(plan: Plan, teach: Teach | None) -> None:
    """Raises ExportError for teachers that cannot be used, or that nothing is trained by."""
    check_distillation(plan.training, plan.teachers)
    if not plan.teachers:
        return
    if teach is None or teach.teachers != plan.teachers:
        raise ExportError(f"'teachers' must be asked by a lesson about them (got {teach!r}); give run() one")
    if plan.checkpoint is not None and not plan.pruning.may_prune:
        raise ExportError(
            f"'teacher' must be left out where nothing is trained (got {plan.teachers[0]} with --checkpoint "
            f"and --preset {plan.pruning.preset}); leave out --checkpoint, or prune"
        )
    teach.check(plan.work)


def check_export(plan: ExportPlan) -> None:
    """Raises ExportError for what neither a run nor a comparison can do, as far as no row tells."""
    if plan.calibrate_by is not None:
        check_segment_field(plan.calibrate_by, load_log_schema(plan.schema).fields)
    check_device(plan.training.config(rows=1).device)
    _check_ship(plan)
    if plan.zero_rows != GraphPlan.zero_rows and not plan.pruning.may_prune:
        raise ExportError(
            f"'zero_rows' must be left out where nothing is pruned (got {plan.zero_rows!r}); "
            "prune with --preset high-performance"
        )


def _check_ship(plan: ExportPlan, rows: int | None = None) -> None:
    """Raises ExportError for a pruned graph that is to ship where nothing gets pruned.

    Without the training part's `rows` that is known only of a preset that was chosen.
    """
    prunes = plan.pruning.may_prune if rows is None else plan.pruning.recipe(rows).prunes
    if plan.ship == "pruned" and not prunes:
        raise ExportError(
            "'ship' must be auto or dense where nothing is pruned (got 'pruned'); "
            "prune with --preset high-performance"
        )


def _stages(
    plan: Plan,
    work: Work,
    clock: Clock,
    search: Search | None,
    teach: Teach | None,
    warm: WarmStart | None,
) -> Bundle:
    say = clock.say
    growth = None if warm is None else warm.growth(plan.forget_after, plan.bins)
    clock.stage("fit-schema", f"{plan.data.name} by the schema {plan.schema}")
    log = fit_schema(work, plan, growth=growth, say=say)
    _check_ship(plan, log.rows["train"])
    taught = None
    if teach is not None and plan.teachers:
        clock.stage("teach", ", ".join(str(one) for one in plan.teachers))
        taught = teach(work, _config(plan, log), say=say)
    searched = None
    if search is not None and plan.pruning.searches:
        clock.stage("tune", plan.model)
        hyperparameters, training, searched = search(plan, log, work, taught, say)
        plan = replace(plan, hyperparameters=hyperparameters, training=training)
    clock.stage("train", plan.checkpoint.name if plan.checkpoint else plan.model)
    train(
        work,
        plan.model,
        plan.hyperparameters,
        _config(plan, log),
        embedding=plan.embedding,
        checkpoint=plan.checkpoint,
        warm=warm,
        searched=searched,
        taught=taught,
        say=say,
    )
    clock.stage("baseline")
    baseline(work, say=say)
    clock.stage("prune", plan.pruning.preset or "")
    prune(work, plan.pruning, say=say)
    make_graphs(work, plan, clock.stage, say)
    clock.stage("package", str(plan.out))
    bundle = package(work, plan.out, name=plan.name, contents=plan.contents, say=say)
    say(summary(bundle))
    return bundle


def _config(plan: Plan, log: LogSummary) -> TrainConfig:
    """How the plan trains its model on a log."""
    rows, clicks = log.rows["train"], log.clicks["train"]
    return plan.training.config(rows, clicks, model=plan.model, earlier_rows=log.earlier_rows)


def make_graphs(work: Work, plan: GraphPlan, begin: Callable[[str], None], say: Say) -> None:
    """From a trained and perhaps pruned model to calibrated graphs; `begin` gets each stage's name."""
    begin("to-onnx")
    to_onnx(work, say=say)
    begin("quantize")
    quantize(work, plan, say=say)
    begin("calibrate")
    calibrate_as_planned(work, plan, say=say)


def demo_log(rows: int, seed: int) -> SyntheticConfig:
    """The log of the demo, a week."""
    return SyntheticConfig(rows=rows, seed=seed, features=20_000, rows_per_day=-(-rows // 7))


def demo(out: Path, *, rows: int, seed: int, threads: int | None, say: Say = print) -> Bundle:
    """Exports a bundle from a small synthetic log, to have something to serve."""
    work = default_work(out)
    log = work.with_name(f"{work.name}-log") / "clicks.parquet"
    plan = Plan(
        data=log,
        schema=str(log.with_suffix(".toml")),
        out=out,
        work=work,
        hyperparameters={"dim": 8, "hidden_units": [128, 128], "dropout": 0.2},
        training=TrainChoice(epochs=3, seed=seed, threads=threads),
        pruning=PruneChoice(preset="high-performance", finetune_epochs=1.0),
    )
    _checked(plan)
    say(f"writing a synthetic log of {rows:,} rows")
    config = demo_log(rows, seed)
    schema = write_synthetic_log(config, log, report=say)
    return run(replace(plan, schema=str(schema)), say=say)


class Clock:
    """Prints a heading for each stage, with the time since the start; a bar counts those that have ended."""

    def __init__(self, say: Say, bar: Bar | None = None) -> None:
        self.say = say
        self.started = time.perf_counter()
        self._bar = bar
        self._begun = 0

    def stage(self, name: str, about: str = "") -> None:
        if self._bar is not None and self._begun:
            self._bar.add(1)
        self._begun += 1
        seconds = time.perf_counter() - self.started
        self.say(f"\n[{seconds:6.1f} s] {name}{': ' if about else ''}{about}")
