"""What quantization-aware training is worth: float32, static INT8, and INT8 trained on, on one log.

    python -m benchmarks.qat --data FILE --schema FILE [--models deep_fwfm dnn] [--preset none]
        [--epochs 1 2] [--rates 1e-4 1e-3] [--seeds 1]

Each model is trained with each seed, pruned by the preset, exported, and quantized; then its INT8 graph is
trained on with each number of epochs and step size, as `export quantize --quantization qat` does. Where
nothing is pruned, the float32 model is trained on in the same way too: what that alone is worth is no merit
of quantization. Judged on the test part:

AUC, LogLoss   LogLoss after a line that is fitted to the calibration part; means over the seeds.
to float32     the difference of AUC, with a 95 % interval over rows and, by Student's t, seeds.
|logit|        the largest difference from the float32 graph's, and the standard deviation of the difference.
kept           in how many seeds validation rows say that the trained graph is the better; `qat` ships the
               static one otherwise, whose quality is then in the line `shipped`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.command import Command, ended, machine, print_table
from benchmarks.synthetic import train_dense
from export.compress.choice import PruneChoice
from export.compress.recipes import RECIPES
from export.data.encoded import EncodedLog, open_log
from export.errors import ExportError
from export.graph.onnx import export_onnx
from export.graph.quantize import quantize_int8
from export.graph.unrounded import Unrounded
from export.judge.bootstrap import resampled_aucs
from export.judge.metrics import auc, logloss, sigmoid
from export.judge.seeds import over_seeds
from export.stages.calibration_methods import fit_platt
from export.stages.fit_schema import fit_schema
from export.stages.plan import LogPlan, Plan, QatChoice
from export.stages.prune import prune
from export.stages.qat import qat_config, train_int8
from export.stages.quantize import spread_rows
from export.stages.records import Trained
from export.stages.to_onnx import to_onnx
from export.stages.variants import DENSE, INT8, PRUNED, Variant, read_variants
from export.stages.work import Work, silent
from export.train.checkpoint import load_checkpoint
from export.train.choices import TrainChoice
from export.train.loop import train
from loadtest.arguments import a_log, positive
from models import MODELS

FLOAT, STATIC = "float32", "static"
RESAMPLES = 400

Logits = NDArray[np.float32]


@dataclass(frozen=True)
class Made:
    """Logits of a graph on the test part, after the line of the calibration part in `pctr`."""

    logits: Logits
    pctr: NDArray[np.float64]
    kept: bool = True


@dataclass(frozen=True)
class Point:
    """One way to quantize one model."""

    model: str
    way: str
    auc: float
    auc_delta: float
    auc_interval: tuple[float, float]
    logloss: float
    largest_difference: float
    deviation: float
    kept: int


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints a table and, on the last line, the same as JSON."""
    command = Command("qat", __doc__)
    add = command.add_argument
    add("--data", type=a_log, required=True, metavar="FILE", help="the log")
    add("--schema", required=True, metavar="NAME|FILE", help="its schema")
    command.folder("--work", "artifacts/qat")
    add("--models", nargs="+", choices=[*MODELS], default=["deep_fwfm"], metavar="NAME", help="[deep_fwfm]")
    add("--preset", choices=tuple(RECIPES), default="none", help="of pruning [%(default)s]")
    command.numbers("--epochs", [QatChoice.epochs], "passes over the training part as INT8")
    add(
        "--rates", nargs="+", type=positive, default=[QatChoice.learning_rate], metavar="X", help="step sizes"
    )
    command.number("--seeds", 1, "of training")
    command.number("--training-epochs", 10, "at most, as float32")
    options = command.parse_args(arguments)
    ways = [QatChoice(epochs, rate) for epochs in options.epochs for rate in options.rates]
    points: list[Point] = []
    with Work(options.work / "log").held(new=True) as work:
        fit_schema(work, LogPlan(data=options.data, schema=options.schema), say=silent)
        log = open_log(work.path("log"))
        for model in options.models:
            seeds = []
            for seed in range(options.seeds):
                choice = TrainChoice(epochs=options.training_epochs, threads=1, seed=seed)
                seeds.append(dict(_made(work, log, model, choice, options.preset, ways)))
            points += _points(model, seeds, np.asarray(log.parts["test"].labels))
    print(f"{options.data.name}, preset {options.preset}, seeds: {options.seeds}; {machine()}")
    print(", ".join(f"{name} {len(part):,}" for name, part in log.parts.items()))
    print_table(_table(points))
    command.print_json(
        data=options.data.name,
        preset=options.preset,
        seeds=options.seeds,
        points=[asdict(point) for point in points],
    )


def _made(
    work: Work, log: EncodedLog, model: str, choice: TrainChoice, preset: str, ways: Sequence[QatChoice]
) -> Iterator[tuple[str, Made]]:
    """A trained model's graphs, by the way in which they are quantized."""
    train_dense(work, model, choice)
    prune(work, PruneChoice(preset=preset, dense_twin="skip"))
    to_onnx(work)
    variants = read_variants(work, log.schema)
    source = variants[PRUNED if PRUNED in variants else DENSE]
    unrounded = Unrounded()
    rows = source.ids(spread_rows(log.parts["train"], Plan.quantization_rows))
    graph = quantize_int8(source.graph, rows, unrounded=unrounded)
    if graph is None:
        raise ExportError(f"'--models' must have tables or layers to quantize (got {model!r})")
    static = Variant(INT8, graph, source.schema, source.renumberings)
    yield FLOAT, _scored(source, log)
    yield STATIC, _scored(static, log)
    for way in ways:
        name = f"qat, epochs {way.epochs}, rate {way.learning_rate:g}"
        if not source.renumberings:
            yield f"float32, {name.removeprefix('qat, ')}", _trained_on(work, log, source, way)
        trained, record = train_int8(work, static, unrounded, way, log)
        yield name, _scored(trained, log, kept=record.better)
        yield f"{name}, shipped", _scored(trained if record.better else static, log, kept=record.better)


def _trained_on(work: Work, log: EncodedLog, source: Variant, way: QatChoice) -> Made:
    """The float32 model trained on as its INT8 graph is."""
    trained = load_checkpoint(work.path("dense.pt"), log.schema).model
    train(trained, log, qat_config(work.read_record("train", Trained).config, way))
    graph = export_onnx(trained, log.schema.columns)
    return _scored(Variant(DENSE, graph, source.schema), log)


def _scored(variant: Variant, log: EncodedLog, *, kept: bool = True) -> Made:
    calibration = variant.score(log.parts["calibration"]).astype(np.float64)
    line = fit_platt(calibration, np.asarray(log.parts["calibration"].labels))
    logits = variant.score(log.parts["test"])
    return Made(logits, sigmoid(line.logits(logits)), kept)


def _points(model: str, seeds: Sequence[dict[str, Made]], labels: NDArray[Any]) -> list[Point]:
    found = []
    for way in seeds[0]:
        pairs = [(one[FLOAT], one[way]) for one in seeds]
        deltas = []
        for before, after in pairs:
            both = resampled_aucs(labels, [before.logits, after.logits], resamples=RESAMPLES)
            deltas.append(both[1] - both[0])
        mean = over_seeds(np.stack(deltas))
        differences = [after.logits - before.logits for before, after in pairs]
        found.append(
            Point(
                model=model,
                way=way,
                auc=float(np.mean([auc(labels, after.logits) for _, after in pairs])),
                auc_delta=mean.delta,
                auc_interval=mean.interval,
                logloss=float(np.mean([logloss(labels, after.pctr) for _, after in pairs])),
                largest_difference=float(max(np.abs(one).max() for one in differences)),
                deviation=float(np.mean([one.std() for one in differences])),
                kept=sum(after.kept for _, after in pairs),
            )
        )
    return found


def _table(points: Sequence[Point]) -> list[list[str]]:
    lines = [
        ["model", "graph", "AUC", "to float32", "95 % interval", "LogLoss", "max |Δ logit|", "sd", "kept"]
    ]
    for one in points:
        low, high = one.auc_interval
        lines.append(
            [
                one.model,
                one.way,
                f"{one.auc:.5f}",
                f"{one.auc_delta:+.5f}",
                f"{low:+.5f} to {high:+.5f}",
                f"{one.logloss:.5f}",
                f"{one.largest_difference:.3f}",
                f"{one.deviation:.4f}",
                str(one.kept) if one.way.startswith("qat") else "",
            ]
        )
    return lines


if __name__ == "__main__":
    sys.exit(ended(main))
