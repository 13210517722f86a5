"""What INT8 costs each model: AUC of the INT8 graph against the float32 graph on rows held out.

    python -m benchmarks.int8_parity [--models all] [--rows 250000] [--data FILE --schema FILE]

Each model is trained briefly with its defaults and exported; INT8 is made of the float32 graph as the export
does it, with ranges found on training rows, and layers that lose too much on validation rows left float32.
Both graphs score the calibration and the test part, which had no say in either.

to float32   AUC of INT8 minus that of float32, with the 95 % interval of the paired bootstrap.
error        the standard deviation of the logit's difference, in per cent of that of the logits.
us/row       processor time of ONNX Runtime on one thread; medians of interleaved rounds.
bytes        of the float32 graph, and how many times smaller INT8 is.
float        layers that stay float32 for what INT8 of them loses; --layer-loss is the export's.

A model whose AUC moves by more than the bound is listed with the share of its tables alone and of its layers
alone, so that the reason is seen. Graphs are kept in the work folder: a second run trains nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from benchmarks.command import Command, ended, machine, print_table
from benchmarks.synthetic import check_same_log, check_same_options, float_graph, make_log
from export.cli.values import reader
from export.data.encoded import EncodedLog, open_log
from export.data.progress import Bar, say
from export.data.synthetic_config import PRESETS
from export.errors import ExportError
from export.graph.editing import GraphEditor
from export.graph.int8_layers import quantize_layers
from export.graph.int8_tables import quantize_tables
from export.graph.onnx import serialize
from export.graph.quantize import quantize_int8
from export.graph.runtime import graph_scorer, microseconds_a_row, run_graph
from export.judge.bootstrap import paired_changes
from export.judge.metrics import auc, sigmoid
from export.knobs import declared
from export.stages.fit_schema import fit_schema
from export.stages.float_layers import choose_int8, judged_rows
from export.stages.plan import LogPlan, Plan
from export.stages.quantize import spread_rows
from export.stages.work import Work
from export.train.choices import TrainChoice
from loadtest.arguments import a_log
from models import MODELS

BOUND = 0.0002
BATCHES = (1, 64)
HELD_OUT = ("calibration", "test")

Ids = NDArray[np.int32]


@dataclass(frozen=True)
class Point:
    """One model's INT8 graph beside its float32 graph."""

    model: str
    auc: float  # of float32
    delta: float
    interval: tuple[float, float]
    error: float  # of the logits, relative
    bytes: tuple[int, int]
    microseconds_a_row: dict[str, dict[str, float]]
    of_tables: float | None  # what the tables alone move the AUC by; where the bound is missed
    of_layers: float | None
    float_layers: tuple[str, ...]

    @property
    def holds(self) -> bool:
        """Whether the AUC stays within the bound."""
        return abs(self.delta) <= BOUND


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints a table, what misses the bound, and on the last line the same as JSON."""
    command = Command("int8_parity", __doc__)
    command.folder("--work", "artifacts/int8_parity")
    command.add_argument(
        "--models", nargs="+", default=["all"], choices=["all", *MODELS], metavar="NAME", help="[all]"
    )
    command.add_argument("--data", type=a_log, metavar="FILE", help="a log [one is made]")
    command.add_argument("--schema", metavar="FILE", help="of that log")
    command.number("--rows", 250_000, "of the log that is made, of the preset zoo")
    command.number("--seed", 1, "of the log that is made", least=0)
    command.number("--epochs", 1, "of training")
    command.number("--threads", 1, "of torch")
    loss = reader(declared(Plan)["layer_loss"])
    command.add_argument(
        "--layer-loss", type=loss, default=Plan.layer_loss, metavar="AUC", help="[%(default)s]"
    )
    options = command.parse_args(arguments)
    if (options.data is None) != (options.schema is None):
        command.error("'--data' and '--schema' must be given together, or neither")
    kept = {
        name: str(vars(options)[name]) for name in ("data", "schema", "rows", "seed", "epochs", "layer_loss")
    }
    check_same_options(options.work, kept)
    if options.data is not None:
        check_same_log(options.work, options.data, options.schema)
    names = tuple(MODELS) if "all" in options.models else tuple(dict.fromkeys(options.models))
    with Work(options.work / "export").held(new=True) as work:
        if options.data is None:
            make_log(work, replace(PRESETS["zoo"], rows=options.rows, seed=options.seed))
        elif not work.has("fit-schema.json"):
            fit_schema(work, LogPlan(data=options.data, schema=options.schema))
        choice = TrainChoice(epochs=options.epochs, threads=options.threads)
        points, left_out = _points(work, names, choice, options.layer_loss)
    log = open_log(work.path("log"))
    rows = sum(len(log.parts[part]) for part in HELD_OUT)
    print(f"judged on {rows:,} rows that no training has seen; {machine()}")
    print_table(_table(points))
    for line in (*_misses(points), *left_out):
        print(line)
    command.print_json(**kept, bound=BOUND, points=[asdict(point) for point in points], left_out=left_out)


def _points(
    work: Work, names: Sequence[str], choice: TrainChoice, layer_loss: float
) -> tuple[list[Point], list[str]]:
    """A point a model, and why there is none of the others."""
    points: list[Point] = []
    left_out: list[str] = []
    log = open_log(work.path("log"))
    with Bar("models", len(names), unit="models", whole=True) as bar:
        for name in names:
            try:
                graph = float_graph(work, name, choice)
            except ExportError as error:
                left_out.append(f"{name} is left out: {error}")
            else:
                for point in measure(name, graph, log, layer_loss):
                    say(f"{name}: AUC {point.auc:.4f}, INT8 {point.delta:+.5f}, error {point.error:.1%}")
                    points.append(point)
            bar.add(1)
    return points, left_out


def measure(model: str, graph: bytes, log: EncodedLog, layer_loss: float) -> Iterator[Point]:
    """The model's point; none where nothing of it can be INT8."""
    rows = spread_rows(log.parts["train"], Plan.quantization_rows)
    chosen = choose_int8(
        graph, lambda kept: quantize_int8(graph, rows, kept=kept), judged_rows(log), layer_loss, say
    )
    int8 = chosen.graph
    if int8 is None:
        say(f"{model} has nothing to quantize")
        return
    ids = np.concatenate([np.asarray(log.parts[part].ids) for part in HELD_OUT])
    labels = np.concatenate([np.asarray(log.parts[part].labels) for part in HELD_OUT])
    expected, found = run_graph(graph, ids), run_graph(int8, ids)
    change, _ = paired_changes(labels, (expected, found), (sigmoid(expected), sigmoid(found)))
    scorers = {"float32": graph_scorer(graph), "int8": graph_scorer(int8)}
    missed = abs(change.delta) > BOUND
    yield Point(
        model=model,
        auc=auc(labels, expected),
        delta=change.delta,
        interval=change.interval,
        error=float((found - expected).std() / expected.std()),
        bytes=(len(graph), len(int8)),
        microseconds_a_row=microseconds_a_row(scorers, ids, BATCHES, rounds=7),
        of_tables=_moved_by(graph, rows, ids, labels, "tables") if missed else None,
        of_layers=_moved_by(graph, rows, ids, labels, "layers") if missed else None,
        float_layers=() if chosen.told is None else tuple(layer.name for layer in chosen.told.layers),
    )


def _moved_by(
    graph: bytes, rows: Ids, ids: Ids, labels: NDArray[np.uint8], part: Literal["tables", "layers"]
) -> float:
    """What the AUC moves by where only the tables, or only the layers, are INT8."""
    editor = GraphEditor.of_bytes(graph)
    if part == "tables":
        quantize_tables(editor)
    else:
        quantize_layers(editor, set(), rows)
    logits = run_graph(serialize(editor.proto()), ids)
    return auc(labels, logits) - auc(labels, run_graph(graph, ids))


def _table(points: Sequence[Point]) -> list[list[str]]:
    times = [f"us/row @{batch}" for batch in BATCHES]
    lines = [
        ["model", "AUC", "to float32", "95 % interval", "error", "bytes", "smaller", *times, "float", "holds"]
    ]
    for point in sorted(points, key=lambda each: -abs(each.delta)):
        plain, int8 = point.microseconds_a_row["float32"], point.microseconds_a_row["int8"]
        lines.append(
            [
                point.model,
                f"{point.auc:.4f}",
                f"{point.delta:+.5f}",
                f"{point.interval[0]:+.5f} to {point.interval[1]:+.5f}",
                f"{point.error:.1%}",
                f"{point.bytes[0]:,}",
                f"{point.bytes[0] / point.bytes[1]:.1f}x",
                *(f"{plain[str(batch)]:.2f} / {int8[str(batch)]:.2f}" for batch in BATCHES),
                ", ".join(point.float_layers),
                "yes" if point.holds else "no",
            ]
        )
    return lines


def _misses(points: Sequence[Point]) -> list[str]:
    missed = [point for point in points if not point.holds]
    held = f"{len(points) - len(missed)} of {len(points)} models hold the bound of {BOUND:g} AUC"
    return [held] + [
        f"{point.model} misses it by {abs(point.delta) - BOUND:.5f}: tables alone move the AUC by "
        f"{point.of_tables:+.5f}, layers alone by {point.of_layers:+.5f}"
        for point in missed
    ]


if __name__ == "__main__":
    sys.exit(ended(main))
