"""`python -m export`: parses, calls the stage, turns what a person can mend into one line on stderr.

The stages are imported when one is called, so that --help does not wait for torch.
"""

from __future__ import annotations

import os
import signal
import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import fields, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from export.cli.options import build_parser
from export.errors import ExportError
from service.bundle.errors import BundleError

if TYPE_CHECKING:
    from export.compress.choice import PruneChoice
    from export.stages.work import Work
    from export.train.choices import EmbeddingChoice, TrainChoice

# Threads that spin while they wait for each other come to a standstill on cores that others use too: measured
# on two busy cores, 4,000 rows/s of training against 26,000. It must be set before torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

say = partial(print, flush=True)
INTERRUPTED = 128 + signal.SIGINT


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; 0: it worked, 1: it could not, 130: Ctrl-C. A wrong option exits with 2."""
    options = build_parser().parse_args(arguments)
    try:
        _run_command(options)
    except (ExportError, BundleError) as error:
        return _fail(str(error))
    except OSError as error:
        where = f"'{error.filename}': " if error.filename else ""
        return _fail(f"{where}{error.strerror or error}")
    except KeyboardInterrupt:
        kept = "; the stages that had ended are kept in the work folder" if "work" in options else ""
        return _fail(f"interrupted{kept}", INTERRUPTED)
    return 0


def _run_command(options: Namespace) -> None:
    """The command; under torchrun on its first process, while the others train along."""
    if os.environ.get("WORLD_SIZE", "1") == "1":
        COMMANDS[options.command](options)
        return
    from export.train.distributed import follow, process_group

    with process_group() as ranks:
        if ranks.is_leader:
            COMMANDS[options.command](options)
        else:
            follow(ranks)


def _fail(message: str, code: int = 1) -> int:
    print(f"export: {' '.join(message.split())}", file=sys.stderr)
    return code


def _run(options: Namespace) -> None:
    from export.stages.pipeline import run
    from export.stages.plan import Plan, default_work

    plan = Plan(
        data=options.data,
        schema=options.schema,
        out=options.out,
        work=options.work or default_work(options.out),
        name=options.name,
        split=options.split,
        on_malformed=options.on_malformed,
        min_count=options.min_count,
        model=options.model,
        hyperparameters=_hyperparameters(options),
        embedding=_embedding(options),
        training=_training(options),
        checkpoint=options.checkpoint,
        pruning=_pruning(options),
        quantization_rows=options.quantization_rows,
        sampling_rate=options.sampling_rate,
        methods=options.calibration_methods,
    )
    run(plan, say=say)


def _models(options: Namespace) -> None:
    from export.cli.model_list import describe_model, list_models

    say(list_models() if options.model is None else describe_model(options.model))


def _demo(options: Namespace) -> None:
    from export.stages.pipeline import demo

    demo(options.out, rows=options.rows, seed=options.seed, threads=options.threads, say=say)


def _synthesize(options: Namespace) -> None:
    from export.data.synthetic_config import PRESETS
    from export.data.synthetic_file import write_synthetic_log

    preset = PRESETS[options.preset]
    given = {field.name: getattr(options, field.name, None) for field in fields(preset)}
    config = replace(preset, **{name: value for name, value in given.items() if value is not None})
    schema = write_synthetic_log(config, options.out, report=say)
    say(f"wrote {options.out} and {schema}")
    say(f"export it: python -m export run --data {options.out} --schema {schema} --out artifacts/synthetic")


def _convert(options: Namespace) -> None:
    from export.data.ipinyou import convert_ipinyou
    from export.data.movielens import convert_movielens

    convert = {"movielens": convert_movielens, "ipinyou": convert_ipinyou}[options.format]
    schema = convert(options.data, options.out, on_malformed=options.on_malformed, report=say)
    say(f"wrote {options.out} and {schema}")


def _fit_schema(options: Namespace) -> None:
    from export.stages.model import fit_schema

    with _work(options) as work:
        fit_schema(
            work,
            options.data,
            options.schema,
            split=options.split,
            on_malformed=options.on_malformed,
            min_count=options.min_count,
            say=say,
        )


def _train(options: Namespace) -> None:
    from export.stages.model import train
    from export.stages.records import LogSummary

    with _work(options) as work:
        log = work.read_record("fit-schema", LogSummary)
        config = _training(options).config(log.rows["train"], log.clicks["train"])
        train(
            work,
            options.model,
            _hyperparameters(options),
            config,
            embedding=_embedding(options),
            checkpoint=options.checkpoint,
            say=say,
        )


def _prune(options: Namespace) -> None:
    from export.stages.model import prune

    with _work(options) as work:
        prune(work, _pruning(options), say=say)


def _to_onnx(options: Namespace) -> None:
    from export.stages.graphs import to_onnx

    with _work(options) as work:
        to_onnx(work, say=say)


def _quantize(options: Namespace) -> None:
    from export.stages.graphs import quantize

    with _work(options) as work:
        quantize(work, rows=options.quantization_rows, say=say)


def _calibrate(options: Namespace) -> None:
    from export.stages.graphs import calibrate

    with _work(options) as work:
        calibrate(work, sampling_rate=options.sampling_rate, methods=options.calibration_methods, say=say)


def _package(options: Namespace) -> None:
    from export.report.summary import summary
    from export.stages.package import package

    with _work(options) as work:
        say(summary(package(work, options.out, name=options.name, say=say)))


def _compare(options: Namespace) -> None:
    from export.compare.command import run_command

    run_command(
        options,
        common=_common_hyperparameters(options),
        training=_training(options),
        pruning=_pruning(options),
        embedding=_embedding(options),
        say=say,
    )


COMMANDS: dict[str, Callable[[Namespace], None]] = {
    "run": _run,
    "models": _models,
    "demo": _demo,
    "synthesize": _synthesize,
    "convert": _convert,
    "fit-schema": _fit_schema,
    "train": _train,
    "prune": _prune,
    "to-onnx": _to_onnx,
    "quantize": _quantize,
    "calibrate": _calibrate,
    "package": _package,
    "compare": _compare,
}


def _work(options: Namespace) -> AbstractContextManager[Work]:
    from export.stages.plan import default_work
    from export.stages.work import Work

    work = Work(options.work or default_work(options.out))
    return work.held(new=options.command == "fit-schema")


def _hyperparameters(options: Namespace) -> dict[str, Any]:
    """What was given of them; the model is asked later whether it takes it."""
    return _common_hyperparameters(options) | dict(options.hyperparameter or [])


def _common_hyperparameters(options: Namespace) -> dict[str, Any]:
    """Those that have an option of their own."""
    named = {name: getattr(options, name) for name in ("dim", "hidden_units", "dropout")}
    return {name: value for name, value in named.items() if value is not None}


def _embedding(options: Namespace) -> EmbeddingChoice:
    from export.train.choices import EmbeddingChoice

    return EmbeddingChoice.of_options(
        options.embedding, options.pooling, collisions=options.collisions, least_ids=options.least_ids
    )


def _training(options: Namespace) -> TrainChoice:
    from export.train.choices import TrainChoice

    return TrainChoice(**{field.name: getattr(options, field.name) for field in fields(TrainChoice)})


def _pruning(options: Namespace) -> PruneChoice:
    from export.compress.choice import PruneChoice

    return PruneChoice(
        preset=options.preset,
        neurons=options.neurons,
        prune_epochs=options.prune_epochs,
        finetune_epochs=options.finetune_epochs,
        prune_every=options.prune_every,
        learning_rate=options.prune_learning_rate,
    )


if __name__ == "__main__":
    status = main()
    if "TORCHELASTIC_RUN_ID" in os.environ:
        # One of several processes: torch's threads (2.13) now and then abort the interpreter's orderly end,
        # when all work is done, and torchrun would take that for a failure of the training.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)
