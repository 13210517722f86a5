"""What each command does: it makes a plan from its options and calls the stage.

Stages are imported when one is called, so that --help does not wait for torch.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from export.budgets.plan import BudgetPlan
from export.bundles.plan import DiffPlan, EvaluatePlan, ExplainPlan, ScorePlan
from export.cli.knob_options import given_of
from export.cli.options import HYPERPARAMETERS
from export.cli.settings import Chosen, with_settings
from export.compare.plan import UNPRUNED, ComparePlan
from export.compress.choice import PruneChoice
from export.data.progress import say
from export.data.synthetic_config import PRESETS, SyntheticConfig
from export.errors import ExportError
from export.infer.plan import InferPlan
from export.knobs import choose, flag_of
from export.replay.plan import ReplayPlan
from export.stages.plan import GraphPlan, LogPlan, Plan, default_work
from export.train.choices import EmbeddingChoice, TrainChoice
from export.train.config import TrainConfig
from export.tune.plan import TunePlan

if TYPE_CHECKING:
    from pathlib import Path

    from export.stages.work import Work
    from export.teach.lesson import Lesson


def _run(options: Namespace) -> None:
    from export.stages.pipeline import run

    if options.warm_start is not None and options.model is None and options.checkpoint is None:
        from export.stages.warm_start import model_at

        options.model = model_at(options.warm_start)
    model, hyperparameters, training = _model(options)
    given = {
        "model": model,
        "hyperparameters": hyperparameters,
        "embedding": _embedding(options),
        "training": training,
        "pruning": choose(PruneChoice, given_of(PruneChoice, options)),
        "teachers": _teachers(options),
    }
    plan = choose(Plan, _given_with_work(Plan, options) | given)
    lesson = _lesson(plan.teachers)
    if plan.pruning.searches:
        from export.tune.tune import tune_before_run

        run(plan, search=tune_before_run, teach=lesson, say=say)
    else:
        run(plan, teach=lesson, say=say)


def _models(options: Namespace) -> None:
    from export.cli.model_list import describe_model, list_abilities, list_models

    if options.model is not None and options.abilities:
        raise ExportError(
            f"'--abilities' must be left out for one model, whose abilities are told anyway (got "
            f"{options.model!r}); leave out one of the two"
        )
    if options.model is not None:
        say(describe_model(options.model))
    else:
        say(list_abilities() if options.abilities else list_models())


def _demo(options: Namespace) -> None:
    from export.stages.pipeline import demo

    demo(options.out, rows=options.rows, seed=options.seed, threads=options.threads, say=say)


def _synthesize(options: Namespace) -> None:
    from export.data.synthetic_file import write_synthetic_log

    config = choose(SyntheticConfig, given_of(SyntheticConfig, options), PRESETS[options.preset])
    schema = write_synthetic_log(config, options.out, report=say)
    say(f"wrote {options.out} and {schema}")
    say(f"export it: python -m export run --data {options.out} --schema {schema} --out artifacts/synthetic")


def _convert(options: Namespace) -> None:
    from export.data.ipinyou import convert_ipinyou
    from export.data.movielens import convert_movielens

    convert = {"movielens": convert_movielens, "ipinyou": convert_ipinyou}[options.format]
    on_malformed = options.on_malformed or LogPlan.on_malformed
    schema = convert(options.data, options.out, on_malformed=on_malformed, report=say)
    say(f"wrote {options.out} and {schema}")


def _infer_schema(options: Namespace) -> None:
    from export.infer.infer import infer_schema

    infer_schema(InferPlan(**given_of(InferPlan, options), overwrite=options.overwrite), say=say)


def _fit_schema(options: Namespace) -> None:
    from export.stages.fit_schema import fit_schema

    plan = LogPlan(**given_of(LogPlan, options))
    with _work(options) as work:
        fit_schema(work, plan, say=say)


def _train(options: Namespace) -> None:
    from export.stages.records import LogSummary
    from export.stages.taught import check_distillation
    from export.stages.train import check_no_overrides, train
    from export.train.checkpoint import load_checkpoint

    model, hyperparameters, training = _model(options)
    teachers, embedding = _teachers(options), _embedding(options)
    if options.checkpoint is not None:
        check_no_overrides(options.checkpoint, hyperparameters, embedding, training)
        model = load_checkpoint(options.checkpoint).name
    check_distillation(training, teachers)
    training.config(rows=1, model=model)
    with _work(options) as work:
        log = work.read_record("fit-schema", LogSummary)
        config = training.config(log.rows["train"], log.clicks["train"], model=model)
        lesson = _lesson(teachers)
        train(
            work,
            model,
            hyperparameters,
            config,
            embedding=embedding,
            checkpoint=options.checkpoint,
            taught=None if lesson is None else lesson(work, config, say=say),
            say=say,
        )


def _baseline(options: Namespace) -> None:
    from export.stages.baseline import baseline

    with _work(options) as work:
        baseline(work, say=say)


def _prune(options: Namespace) -> None:
    from export.stages.prune import prune

    choice = _without_search(choose(PruneChoice, given_of(PruneChoice, options)))
    with _work(options) as work:
        prune(work, choice, say=say)


def _to_onnx(options: Namespace) -> None:
    from export.stages.to_onnx import to_onnx

    with _work(options) as work:
        to_onnx(work, say=say)


def _quantize(options: Namespace) -> None:
    from export.stages.quantize import quantize

    plan = choose(GraphPlan, given_of(GraphPlan, options))
    with _work(options) as work:
        quantize(work, plan, say=say)


def _calibrate(options: Namespace) -> None:
    from export.stages.calibrate import calibrate_as_planned

    with _work(options) as work:
        calibrate_as_planned(work, choose(GraphPlan, given_of(GraphPlan, options)), say=say)


def _package(options: Namespace) -> None:
    from export.report.summary import summary
    from export.stages.package import package

    with _work(options) as work:
        contents = options.contents or Plan.contents
        say(summary(package(work, options.out, name=options.name, contents=contents, say=say)))


def _compare(options: Namespace) -> None:
    """Prints the comparisons of `--show`, or compares."""
    if options.show:
        _show(options)
        return
    if options.format is not None:
        raise ExportError(
            f"'--format' must be left out without --show (got {options.format!r}); give both or none"
        )
    for name in ("data", "schema", "out"):
        if getattr(options, name) is None:
            raise ExportError(f"'--{name}' must be given to compare models (got nothing); see compare --help")
    from export.compare.compare import check_used, chosen_models, compare
    from export.compare.overrides import read_overrides

    given = {
        "again": chosen_models(options.again or ()),
        "common": _common_hyperparameters(options),
        "overrides": read_overrides(options.settings, options.hyperparameter or ()),
        "embedding": _embedding(options),
        "training": _training(options),
        "pruning": _without_search(choose(PruneChoice, given_of(PruneChoice, options), UNPRUNED)),
    }
    plan = choose(ComparePlan, _given_with_work(ComparePlan, options) | given)
    check_used(plan)
    compare(plan, say=say)


def _show(options: Namespace) -> None:
    from export.compare.compare import read_comparison
    from export.compare.tables import FORMATS

    for name, given in vars(options).items():
        if name not in ("command", "quiet", "show", "format") and given is not None:
            raise ExportError(
                f"'{flag_of(name)}' must be left out with --show, which compares nothing (got "
                f"{str(given)!r}); leave out one of the two"
            )
    for folder in options.show:
        say(FORMATS[options.format or "text"](read_comparison(folder)))
        say("")


def _tune(options: Namespace) -> None:
    if (options.data is None) != (options.schema is None):
        raise ExportError("'--data' and '--schema' must be given together, or neither (got one of them)")
    from export.tune.tune import tune

    log = None if options.data is None else LogPlan(**given_of(LogPlan, options))
    if log is None and (given := given_of(LogPlan, options)):
        name = next(iter(given))
        raise ExportError(
            f"'{name}' must be left out where the work folder's log is used (got {given[name]!r}); "
            "give --data and --schema with it"
        )
    model, hyperparameters, training = _model(options)
    plan = TunePlan(
        **_given_with_work(TunePlan, options),
        log=log,
        model=model,
        hyperparameters=hyperparameters,
        embedding=_embedding(options),
        training=training,
    )
    tune(plan, say=say)


def _compress(options: Namespace) -> None:
    from export.budgets.compress import compress
    from export.teach.lesson import Lesson

    plan = BudgetPlan(
        **given_of(BudgetPlan, options),
        pruning=choose(PruneChoice, given_of(PruneChoice, options)),
        graphs=GraphPlan(**given_of(GraphPlan, options)),  # qat is what some trials try
        teaching=_training(options),
    )
    compress(plan, lessons=Lesson, say=say)


def _score(options: Namespace) -> None:
    from export.bundles.score import score

    score(ScorePlan(**given_of(ScorePlan, options), quiet=options.quiet), say=say)


def _evaluate(options: Namespace) -> None:
    from export.bundles.evaluate import evaluate_bundle

    evaluate_bundle(EvaluatePlan(**given_of(EvaluatePlan, options), quiet=options.quiet), say=say)


def _diff(options: Namespace) -> None:
    from export.bundles.diff import diff_bundles

    given = given_of(DiffPlan, options)
    diff_bundles(DiffPlan(**given, bundles=tuple(options.bundle), quiet=options.quiet), say=say)


def _explain(options: Namespace) -> None:
    from export.bundles.explain import explain_bundle

    explain_bundle(ExplainPlan(**given_of(ExplainPlan, options), quiet=options.quiet), say=say)


def _replay(options: Namespace) -> None:
    from export.replay.replay import replay

    given = given_of(ReplayPlan, options)
    replay(ReplayPlan(**given, auctions=tuple(options.auctions), quiet=options.quiet), say=say)


RUNS: Mapping[str, Callable[[Namespace], None]] = {
    "run": _run,
    "models": _models,
    "demo": _demo,
    "synthesize": _synthesize,
    "convert": _convert,
    "infer-schema": _infer_schema,
    "fit-schema": _fit_schema,
    "train": _train,
    "baseline": _baseline,
    "prune": _prune,
    "to-onnx": _to_onnx,
    "quantize": _quantize,
    "calibrate": _calibrate,
    "package": _package,
    "compare": _compare,
    "tune": _tune,
    "compress": _compress,
    "score": _score,
    "evaluate": _evaluate,
    "diff": _diff,
    "explain": _explain,
    "replay": _replay,
}


def _work(options: Namespace) -> AbstractContextManager[Work]:
    from export.stages.work import Work

    work = Work(options.work or default_work(options.out))
    return work.held(new=options.command == "fit-schema")


def _given_with_work(kind: type[Plan | ComparePlan | TunePlan], options: Namespace) -> dict[str, Any]:
    """The knobs of a plan that were given, and where its stages hand over."""
    return {"work": default_work(options.out), **given_of(kind, options)}


def _model(options: Namespace) -> Chosen:
    """The model, its hyperparameters and how it is trained, of the options and of --settings."""
    checkpoint = getattr(options, "checkpoint", None)
    if checkpoint is not None and options.model is not None:
        raise ExportError(
            f"'model' must be left out with the checkpoint {checkpoint.name}, which sets it "
            f"(got {options.model!r}); leave out one of the two"
        )
    return with_settings(options, _hyperparameters(options), given_of(TrainConfig, options))


def _teachers(options: Namespace) -> tuple[Path, ...]:
    """Who teaches the model; nobody where none was named."""
    return tuple(options.teacher or ())


def _lesson(teachers: tuple[Path, ...]) -> Lesson | None:
    if not teachers:
        return None
    from export.teach.lesson import Lesson

    return Lesson(teachers)


def _without_search(choice: PruneChoice) -> PruneChoice:
    """The choice, unless its preset is for `run` alone."""
    if choice.searches:
        raise ExportError(
            f"'preset' must be one that prunes, or none (got {choice.preset!r}, which searches before the "
            "training of a run); tune with `python -m export tune`"
        )
    return choice


def _hyperparameters(options: Namespace) -> dict[str, Any]:
    """The hyperparameters that were given; whether the model takes them is checked later."""
    return _common_hyperparameters(options) | dict(options.hyperparameter or [])


def _common_hyperparameters(options: Namespace) -> dict[str, Any]:
    """The given hyperparameters that have an option of their own."""
    named = {option.name: getattr(options, option.name) for option in HYPERPARAMETERS}
    return {name: value for name, value in named.items() if value is not None}


def _embedding(options: Namespace) -> EmbeddingChoice:
    return choose(EmbeddingChoice, given_of(EmbeddingChoice, options))


def _training(options: Namespace) -> TrainChoice:
    return TrainChoice(**given_of(TrainConfig, options))
