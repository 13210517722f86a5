"""`python -m export`: parses, calls the stage, turns what a person can mend into one line on stderr.

The stages are imported when one is called, so that --help does not wait for torch.
"""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from export.data.errors import LogError, LogSchemaError
from export.errors import ExportError
from export.options import build_parser
from service.bundle.errors import BundleError

# Threads that spin while they wait for each other come to a standstill on cores that others use too: measured
# on two busy cores, 4,000 rows/s of training against 26,000. It must be set before torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

say = partial(print, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; 0 when it worked, 1 when it could not. A wrong option exits with 2."""
    options = build_parser().parse_args(arguments)
    try:
        COMMANDS[options.command](options)
    except (ExportError, LogError, LogSchemaError, BundleError) as error:
        return _fail(str(error))
    except OSError as error:
        where = f"'{error.filename}': " if error.filename else ""
        return _fail(f"{where}{error.strerror or error}")
    except KeyboardInterrupt:
        return _fail("interrupted; finished stages are kept in the work folder")
    return 0


def _fail(message: str) -> int:
    print(f"export: {' '.join(message.split())}", file=sys.stderr)
    return 1


def _run(options: Namespace) -> None:
    from export.pipeline import Plan, default_work, run

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
        training=_training(options),
        checkpoint=options.checkpoint,
        preset=options.preset,
        schedule=_schedule(options),
        prune_learning_rate=options.prune_learning_rate,
        quantization_rows=options.quantization_rows,
        sampling_rate=options.sampling_rate,
        methods=options.calibration_methods,
    )
    run(plan, say=say)


def _demo(options: Namespace) -> None:
    from export.pipeline import demo

    demo(options.out, rows=options.rows, seed=options.seed, threads=options.threads, say=say)


def _synthesize(options: Namespace) -> None:
    from export.data.synthetic import SyntheticConfig
    from export.data.synthetic_file import write_synthetic_log

    names = (
        "rows",
        "seed",
        "features",
        "candidate_fields",
        "sequence_fields",
        "ctr",
        "drift",
        "rows_per_day",
    )
    try:
        config = SyntheticConfig(**{name: getattr(options, name) for name in names})
    except ValueError as error:
        raise ExportError(str(error)) from None
    schema = write_synthetic_log(config, options.out, report=say)
    say(f"wrote {options.out} and {schema}")
    say(f"export it: python -m export run --data {options.out} --schema {schema} --out artifacts/synthetic")


def _fit_schema(options: Namespace) -> None:
    from export.model_stages import fit_schema

    fit_schema(
        _work(options),
        options.data,
        options.schema,
        split=options.split,
        on_malformed=options.on_malformed,
        min_count=options.min_count,
        say=say,
    )


def _train(options: Namespace) -> None:
    from export.model_stages import train
    from export.records import LogSummary

    work = _work(options)
    rows = work.read_record("fit-schema", LogSummary).rows["train"]
    config = _training(options).config(rows)
    train(work, options.model, _hyperparameters(options), config, checkpoint=options.checkpoint, say=say)


def _prune(options: Namespace) -> None:
    from export.model_stages import prune

    prune(
        _work(options),
        options.preset,
        _schedule(options),
        learning_rate=options.prune_learning_rate,
        say=say,
    )


def _to_onnx(options: Namespace) -> None:
    from export.graph_stages import to_onnx

    to_onnx(_work(options), say=say)


def _quantize(options: Namespace) -> None:
    from export.graph_stages import quantize

    quantize(_work(options), rows=options.quantization_rows, say=say)


def _calibrate(options: Namespace) -> None:
    from export.graph_stages import calibrate

    calibrate(
        _work(options), sampling_rate=options.sampling_rate, methods=options.calibration_methods, say=say
    )


def _package(options: Namespace) -> None:
    from export.package import package
    from export.pipeline import default_work
    from export.report.summary import summary
    from export.work import Work

    work = Work(options.work or default_work(options.out))
    say(summary(package(work, options.out, name=options.name, say=say)))


COMMANDS: dict[str, Callable[[Namespace], None]] = {
    "run": _run,
    "demo": _demo,
    "synthesize": _synthesize,
    "fit-schema": _fit_schema,
    "train": _train,
    "prune": _prune,
    "to-onnx": _to_onnx,
    "quantize": _quantize,
    "calibrate": _calibrate,
    "package": _package,
}


def _work(options: Namespace) -> Any:
    from export.work import Work

    return Work(options.work)


def _hyperparameters(options: Namespace) -> dict[str, Any]:
    """Those of the options that the chosen model takes."""
    from export.train.build import hyperparameters_of

    given = {"dim": options.dim, "hidden_units": list(options.hidden_units), "dropout": options.dropout}
    known = hyperparameters_of(options.model)
    return {name: value for name, value in given.items() if name in known}


def _training(options: Namespace) -> Any:
    from export.pipeline import TrainChoice

    names = ("epochs", "batch_size", "learning_rate", "l2", "embedding_l2", "evaluations_per_epoch",
             "patience", "seed", "threads", "device")  # fmt: skip
    return TrainChoice(**{name: getattr(options, name) for name in names})


def _schedule(options: Namespace) -> Any:
    from export.compress.prune import PruneConfig

    return PruneConfig(
        pruning_epochs=options.prune_epochs,
        finetune_epochs=options.finetune_epochs,
        every=options.prune_every,
    )


if __name__ == "__main__":
    sys.exit(main())
